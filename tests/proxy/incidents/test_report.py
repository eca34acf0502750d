"""Incidents for people: nothing that is recorded is lost, invented or taken for markup."""

from __future__ import annotations

from dataclasses import asdict, replace
from io import StringIO
from typing import Any

from rich.console import Console, RenderableType

from proxy.incidents import Closure, Incident, Origin, Record
from proxy.incidents.report import CULPRITS, incident_page, incident_table, statistics_page
from proxy.incidents.statistics import statistics
from tests.proxy.incidents.samples import CAPTURE, CLOSURE, INCIDENT, JUDGEMENT, ROW


def shown(renderable: RenderableType, width: int = 400) -> list[str]:
    console = Console(file=StringIO(), width=width)
    console.print(renderable)
    assert isinstance(console.file, StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def record(incident: Incident = INCIDENT, closure: Closure | None = CLOSURE) -> Record:
    closed = asdict(closure) if closure else None
    return Record(incident.id, "2026-01-02T03:04:05.678Z", asdict(incident), None, closed)


def page(**changes: Any) -> dict[str, str]:
    """The rows of a page by name."""
    closure = changes.pop("closure", CLOSURE)
    rows = shown(incident_page(record(replace(INCIDENT, **changes), closure)))[1:]
    return {name: text.strip() for name, _, text in (row.partition(" ") for row in rows)}


def test_a_line_for_each_incident() -> None:
    lines = shown(incident_table([record(), record(replace(INCIDENT, id="inc_0"), None)]))
    assert [line.split() for line in lines] == [
        "incident time detector culprit mode rewound outcome".split(),
        "inc_1 2026-01-02 03:04:05 tool.schema speculation mtp/full -> plain 17 recovered".split(),
        "inc_0 2026-01-02 03:04:05 tool.schema - mtp/full -> plain 17 open".split(),
    ]


def test_an_id_stays_whole_in_a_narrow_terminal() -> None:
    long = record(replace(INCIDENT, id="inc_" + "A" * 26))
    assert any("inc_" + "A" * 26 in line for line in shown(incident_table([long]), 60))


def test_a_page_says_what_happened() -> None:
    rows = page(audits={"audited": 3, "mismatches": 1}, drafts={"drafted": 9, "accepted": 0})
    assert shown(incident_page(record()))[0] == "inc_1  2026-01-02T03:04:05.678Z"
    assert rows == {
        "tripped": "tool.schema (fallback): required",
        "where": "tool:0, tokens 4 to 20 of the response, 100 tokens of context",
        "done": "rewound 17 tokens to token 4, mtp/full -> plain in the same response, state rebuilt: trusted",
        "cost": "2.0 ms, 4 tokens computed again, 17 tokens thrown away, 30 kept",
        "outcome": "recovered, finish reason tool_calls",
        "culprit": "speculation (draft and verify), certain",
        "proof": "compared 3",
        "evidence": "keyword required",
        "audits": "audited 3, mismatches 1",
        "drafts": "drafted 9, accepted 0",
        "request": "req_1, openai.chat, model m",
        "replay": "seed 1, temperature 0.0, prompt sha256 0000000000000000, model sha256:0",
        "captured": "no; with `incidents.capture = true` it could be run again",
    }


def test_an_incident_that_is_not_over() -> None:
    rows = page(closure=None)
    assert (rows["outcome"], rows["culprit"]) == ("still open, finish reason -", "not known, not judged yet")
    assert "cost" not in rows


def test_an_incident_whose_process_died() -> None:
    died = replace(record(closure=None), died=True)
    assert ["outcome", *"died while open, finish reason -".split()] in [
        line.split() for line in shown(incident_page(died))
    ]
    assert shown(incident_table([died]))[1].endswith("died")


def test_a_judgement_overrides_the_closure_and_shows_its_runs() -> None:
    rows = (
        {**ROW, "axis": "none", "cures": False, "recurs": True},
        ROW,
        {"axis": "filter", "kl": None, "withheld": ["x"]},
    )
    judged = replace(record(), judged=asdict(replace(JUDGEMENT, axes=rows)))
    assert "kv" in shown(incident_table([judged]))[1].split()
    lines = shown(incident_page(judged))
    assert [line.split() for line in lines if line.startswith("culprit")] == [
        "culprit the compressed KV cache, certain, by running it again (at first: speculation)".split()
    ]
    assert [line.split() for line in lines[-4:]] == [
        "axis mode tokens first_difference cures recurs".split(),
        "none plain 17 3 no yes".split(),
        "draft plain 17 3 yes no".split(),
        "filter - - - - -".split(),
    ]


def test_steps_versions_and_rules() -> None:
    steps = ({"position": 8, "mode": "mtp/full", "min_margin": 0.25, "mismatch": None, "finite": False},)
    origin = Origin("c" * 64, "strict", "p" * 64)
    changed = replace(INCIDENT, steps=steps, origin=origin, versions={"specguard": "0.1.0", "torch": "2"}, tool="ls")
    assert (
        page(origin=origin)["rules"] == "config_sha256 cccccccccccccccc, policy strict, policy_sha256 pppppppppppppppp"
    )
    lines = shown(incident_page(record(changed)))
    words = [line.split() for line in lines]
    assert ["tool", "ls"] in words
    assert "versions specguard 0.1.0, torch 2".split() in words
    assert words[-2:] == ["position mode min_margin".split(), "8 mtp/full 0.25".split()]


def test_what_was_captured() -> None:
    def captured(capture: dict[str, Any]) -> str:
        lines = shown(incident_page(replace(record(), capture=capture)))
        return next(line for line in lines if line.startswith("captured")).removeprefix("captured").strip()

    plain = CAPTURE.plain()
    assert captured(plain) == "2 tokens of prompt, 1 of response, 2 discarded; `specguard replay` runs it again"
    assert captured(plain | {"redacted": ["jwt"]}) == "without token ids, since secrets were redacted (jwt)"
    assert captured({"prompt": "x"}) == "the prompt alone, by an older version"


def test_statistics_for_people() -> None:
    assert shown(statistics_page(statistics([]))) == ["no incidents"]
    lines = shown(statistics_page(statistics([record(), record(replace(INCIDENT, id="inc_0"), None)])))
    assert lines[0] == "2 incidents, 2026-01-02T03:04:05 to 2026-01-02T03:04:05"
    assert [line.split() for line in lines[1:]] == [
        "detector 2 tool.schema".split(),
        "culprit 1 speculation".split(),
        "1 not judged".split(),
        "mode 2 mtp/full -> plain".split(),
        "outcome 1 recovered".split(),
        "1 open".split(),
        "cost 1 rewinds, p50 2.0 ms, p90 2.0 ms, 34 tokens thrown away".split(),
    ]


def test_what_was_done_without_a_rewind() -> None:
    assert page(action="end")["done"] == "the response was ended"
    assert page(action="none")["done"] == "nothing was changed"
    assert page(action="start")["done"] == "the response was begun in plain instead of mtp/full"


def test_every_culprit_has_a_name() -> None:
    for culprit, name in CULPRITS.items():
        assert page(closure=replace(CLOSURE, culprit=culprit))["culprit"] == f"{name}, certain"
    assert page(closure=replace(CLOSURE, culprit="moon"))["culprit"] == "moon, certain"


def test_what_is_recorded_is_never_markup() -> None:
    assert page(reason="[red]x[/red]", model="[/]")["tripped"].endswith("[red]x[/red]")
    assert page(model="[/]")["request"].endswith("model [/]")


def test_values_are_shortened_and_empty_ones_left_out() -> None:
    proof = {"tokens": list(range(13)), "few": [1, 2], "difference": 0.123456789, "none": None, "empty": []}
    assert page(closure=replace(CLOSURE, proof=proof))["proof"] == (
        "tokens [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ... 13 in all], few [1, 2], difference 0.123457"
    )
    assert "evidence" not in page(evidence={})
