"""`specguard policy`: what is printed, what is warned of, and what ends with status 2."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from policies.rule_file import parse, shipped, shipped_text
from proxy.commands.main import main
from proxy.commands.policy import since
from proxy.incidents import IncidentStore
from tests.proxy.incidents.samples import CLOSURE, INCIDENT

STRICT = '[[rule]]\nname = "strict"\nwhen.detector = "tool.*"\ndo = ["end"]\n'


def written(folder: Path, text: str) -> Path:
    file = folder / "policy.toml"
    file.write_text(text, encoding="utf-8")
    return file


def ran(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> tuple[str, str]:
    assert main(["policy", *map(str, arguments)]) == status
    return capsys.readouterr()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three incidents, one of them of a response that nobody asked about for long."""
    path = tmp_path / "incidents.sqlite"
    writer = IncidentStore(path)
    stood = {
        "mode": "mtp/full", "rewinds": 0, "undelivered": 4, "call_began": 4, "can_rewind": True, "mendable": False,
        "tool": "ls",
    }  # fmt: skip
    incident = replace(INCIDENT, situation=stood)
    for name, change in (
        ("inc_1", {"situation": {}}),
        ("inc_2", {"request_id": "req_2"}),
        ("inc_3", {"action": "end"}),
    ):
        writer.opened(replace(incident, id=name, **change))  # type: ignore[arg-type]
        writer.closed(replace(CLOSURE, id=name))
    writer.close()
    return path


def test_a_good_file_is_shown_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'max_rewinds = 1\n[[rule]]\nname = "edits"\ndo = ["rewind", "end"]\naccuse = "kv"\n'
    text += (
        'when = { detector = ["tool.j*", "loop.*"], exactly = "abort", channel = "tool", tool = "e*", mode = "*/k*" }\n'
    )
    text += '[[override]]\nname = "night"\nmodel = "qwen*"\nheader.X-Team = "r*"\nrepair = true\n'
    out, err = ran(capsys, "check", written(tmp_path, text))
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "max_rewinds = 1" in lines
    assert "edits tool.j* or loop.* abort tool, tool e*, mode */k* rewind > end kv" in lines
    assert "override night for model qwen*, header x-team: r*" in lines
    assert "repair = true" in lines
    assert err == ""


def test_rules_that_never_match_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = STRICT + '[[rule]]\nname = "late"\nwhen.detector = "tool.schema"\ndo = ["none"]\n'
    text += '[[rule]]\nname = "typo"\nwhen.detector = "loop.perido"\ndo = ["none"]\n'
    text += '[[override]]\nname = "o"\n[[override.rule]]\nname = "all"\ndo = ["none"]\n'
    text += '[[override.rule]]\nname = "again"\nwhen.detector = "loop.*"\ndo = ["none"]\n'
    _, err = ran(capsys, "check", written(tmp_path, text))
    assert "warning: rule late can never match: strict comes first and matches all that it does" in err
    assert "warning: rule typo: no detector answers to 'loop.perido'" in err
    assert "warning: rule again of override o can never match: all comes first" in err


def test_globs_for_no_mode_and_no_route_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = '[[rule]]\nname = "drafts"\nwhen.mode = ["mtp", "mtp/*", "plain", "*/k4v4"]\ndo = ["none"]\n'
    text += '[[override]]\nname = "claude"\nroute = ["/v1/messages", "anthropic.*"]\n'
    _, err = ran(capsys, "check", written(tmp_path, text))
    assert "warning: rule drafts: no decode mode answers to 'mtp'; they are written DRAFTER/CODEC" in err
    assert "warning: override claude: no API answers to route '/v1/messages'; there are openai.chat," in err
    assert err.count("answers to") == 2


def test_the_shipped_policy_has_no_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = ran(capsys, "show")
    assert err == ""
    assert all(rule.name in out for rule in shipped().rules)
    assert ran(capsys, "check", written(tmp_path, shipped_text())) == (out, "")


def test_the_shipped_text_can_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = ran(capsys, "show", "--text")
    assert parse(out) == shipped()


def test_the_effective_policy_has_the_configurations_quick_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "specguard.toml"
    config.write_text(f"[guard]\npolicy = '{written(tmp_path, STRICT)}'\nmax_rewinds = 7\n", encoding="utf-8")
    monkeypatch.setenv("SPECGUARD_GUARD__ACTION", "observe")
    out, _ = ran(capsys, "show", "--config", config, "--json")
    shown = json.loads(out)
    assert (shown["max_rewinds"], shown["action"]) == (7, "observe")
    assert shown["rules"][0] == {
        "name": "strict",
        "when": {
            "detector": ["tool.*"], "channel": [], "tool": [], "mode": [], "at_least": "fallback", "exactly": None,
        },
        "do": ["end"],
        "accuse": "unknown",
    }  # fmt: skip
    assert shown["warnings"] == [
        "rule held-too-long can never match: strict comes first and matches all that it does",
        "rule broken-call can never match: strict comes first and matches all that it does",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [("max_rewind = 1", "policy.toml: max_rewind: there is no such key; did you mean 'max_rewinds'?"), ("[", "TOML")],
)
def test_a_bad_file_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str, store: Path
) -> None:
    for arguments in (["check"], ["replay", "--incidents", store]):
        out, err = ran(capsys, *arguments, written(tmp_path, text), status=2)
        assert out == ""
        assert words in err


def test_a_configuration_with_a_bad_policy_is_a_bad_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "specguard.toml"
    config.write_text(f"[guard]\npolicy = '{written(tmp_path, 'repair = 1')}'\n", encoding="utf-8")
    for command in (["check-config", config], ["serve", "--config", config]):
        assert main([str(each) for each in command]) == 2
        assert "policy.toml: repair: 1 is not true or false; write one" in capsys.readouterr().err


def test_a_replay_says_what_would_have_been_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], store: Path
) -> None:
    out, _ = ran(capsys, "replay", written(tmp_path, STRICT), "--incidents", store)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "3 incidents: 1 as it was, 2 otherwise" in lines
    assert "2 x rewind in plain -> end" in lines
    assert "? 1 came after a decision that these rules would not have made; they might not have come" in lines
    assert "~ 1 are not recorded in full:" in lines
    (first,) = [line for line in lines if "inc_1 " in line]
    assert first.startswith("~ inc_1")
    assert first.endswith("tool.schema fallback rewind in plain end strict")


def test_a_replay_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str], store: Path) -> None:
    out, _ = ran(capsys, "replay", written(tmp_path, ""), "--incidents", store, "--json", "--since", "1h")
    shown = json.loads(out)
    assert [each["id"] for each in shown["incidents"]] == ["inc_1", "inc_2", "inc_3"]
    assert shown["summary"]["same"] == 2
    assert shown["summary"]["changes"] == [{"done": "end", "would": "rewind in plain", "count": 1}]


def test_what_is_older_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], store: Path) -> None:
    out, _ = ran(capsys, "replay", written(tmp_path, ""), "--incidents", store, "--since", "2999-01-01")
    assert out == "no incidents\n"


def test_without_a_store_there_is_nothing_to_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = ran(capsys, "replay", written(tmp_path, ""), "--incidents", tmp_path / "none.sqlite", status=2)
    assert "there is no incident store" in err


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("7d", "2026-11-20T12:00:00.000Z"),
        ("24h", "2026-11-26T12:00:00.000Z"),
        ("90m", "2026-11-27T10:30:00.000Z"),
        ("2026-11-01", "2026-11-01T00:00:00.000Z"),
        ("2026-11-01T02:00:00+02:00", "2026-11-01T00:00:00.000Z"),
    ],
)
def test_an_age_or_a_date(text: str, then: str) -> None:
    assert since(text, datetime(2026, 11, 27, 12, tzinfo=UTC)) == then


@pytest.mark.parametrize("text", ["", "7", "d", "7 d", "999999w", "yesterday"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no age; write 7d, 24h, 30m or a date"):
        since(text)
