"""The evidence table says what was changed, what came instead and what it means; the same as data."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
from rich.console import Console

from detectors.finding import Grade
from policies.modes import DecodeMode
from proxy.backends.base import Rerun
from proxy.incidents import Record
from proxy.replays.capture import Capture
from proxy.replays.report import other_model, replay_data, replay_page
from proxy.replays.runs import Judged, Limits, Tripped, investigate
from tests.proxy.replayable import LOOP, SOUND, Replayable, capture

AMPLE = Limits(9999, 9999.0)
RECORD = Record(
    "inc_1",
    "2026-01-01T00:00:00Z",
    {"detector": "loop.period", "position": 258, "fingerprint": "abc"},
    closed={"culprit": "unknown", "certainty": "none"},
)


def found(fault: bool = True, given: Capture | None = None, limits: Limits = AMPLE) -> tuple[Capture, Judged]:
    def say(rerun: Rerun) -> str:
        return (given.response if given else LOOP) if fault and rerun.mode.speculates else SOUND

    given = given or capture(mode=DecodeMode("mtp+ngram", "k4v4"), cached=32)
    tripped = Tripped("loop.period", Grade.FALLBACK, 258, exact=True)
    return given, asyncio.run(investigate(Replayable(say), tripped, given, limits))


def shown(record: Record, given: Capture, judged: Judged, fingerprint: str = "abc") -> str:
    console = Console(width=220, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(replay_page(record, given, judged, fingerprint))
    console.file.close()
    return console.export_text()


def test_the_page_tells_every_run_and_the_verdict() -> None:
    text = shown(RECORD, *found())
    assert "inc_1  loop.period at token 258" in text
    baseline, then, draft = (line for line in text.splitlines() if "plain" in line or "k4v4 " in line)
    assert "all: the trusted baseline" in baseline and "cold" in baseline and "' here and" in baseline
    assert "as it was" in then and "32 kept" in then and "recurs" in then and "yes" not in then
    assert "no drafts" in draft and "none/k4v4" in draft and "token 3" in draft and draft.rstrip().endswith("yes")
    assert "speculation (draft and verify), certain: gone without speculation" in text
    assert "another model" not in text


def test_another_model_is_told() -> None:
    assert "another model: it was abc, this is def" in shown(RECORD, *found(), fingerprint="def")
    assert other_model(RECORD, "def") and not other_model(RECORD, "abc")
    assert not other_model(replace(RECORD, opened={}), "def")


def test_without_a_verdict_the_recorded_one_stands() -> None:
    given, judged = found(fault=False)
    text = shown(RECORD, given, judged)
    assert "not reproduced in the mode of then" in text
    assert "the record's verdict stands: not known, none" in text


def test_what_was_said_cannot_act_as_markup() -> None:
    nasty = capture("[bold red]all[/] is [link=x]" + LOOP)
    text = shown(RECORD, *found(given=nasty))
    assert "'[bold red]'" in text


def test_the_data_is_json_and_says_the_same() -> None:
    _, judged = found()
    data: dict[str, Any] = orjson.loads(orjson.dumps(replay_data(RECORD, judged, "def")))
    assert (data["culprit"], data["certainty"], data["reproduced"]) == ("speculation", "certain", True)
    assert data["model"] == {"then": "abc", "now": "def"}
    assert [row["axis"] for row in data["axes"]] == ["all", "none", "draft"]
    assert data["axes"][0]["text"].startswith(" here and")
    _, transient = found(fault=False)
    data = replay_data(RECORD, transient, "abc")
    assert (data["culprit"], data["certainty"], data["reproduced"], data["finished"]) == (
        "unknown",
        "none",
        False,
        True,
    )
    _, poor = found(limits=Limits(64, 9.0))
    assert not replay_data(RECORD, poor, "abc")["finished"]
