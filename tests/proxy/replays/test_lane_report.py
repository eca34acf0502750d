"""What asking lanes again has shown: a line for each question, the verdict, and what could not be asked."""

from __future__ import annotations

from rich.console import Console

from policies.axes import AxesVerdict
from policies.blame import Culprit
from policies.lane_axes import LaneCase, LaneSeen, LaneSetup, lane_rows
from policies.modes import DecodeMode
from proxy.incidents import Record
from proxy.replays.lane_report import lane_data, lane_page
from proxy.replays.runs import Judged
from tests.proxy.replayable import capture

RECORD = Record(
    "inc_1",
    "2026-01-01T00:00:00Z",
    {"detector": "tool.schema", "position": 7, "fingerprint": "lanes:then"},
    closed={"culprit": "unknown", "certainty": "none"},
)
THEN = LaneSetup("fast", filtered=True)
CASE = LaneCase(THEN, "plain")
ASKED = (
    (THEN, LaneSeen("tool.schema", True, 9)),
    (LaneSetup("plain", True), LaneSeen("", False, 20)),
    (LaneSetup("fast", True, True), LaneSeen("", False, 21)),
    (LaneSetup("plain", False, True), LaneSeen("loop.period", False, 22)),
)
BLAMED = Judged(AxesVerdict(Culprit.PREFIX, "likely", "gone with [a] prefix"), lane_rows(CASE, ASKED), 12.34)


def shown(judged: Judged, cannot: tuple[str, ...] = ()) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(lane_page(RECORD, capture(mode=DecodeMode("mtp", "full")), judged, cannot))
    console.file.close()
    return console.export_text()


def test_the_page_tells_every_question_and_what_cannot_be_asked() -> None:
    lines = shown(BLAMED, ("chance: it was [sampled]",)).splitlines()
    assert lines[0].startswith("inc_1  tool.schema at token 7 of the response, mtp/full")
    asked = [line.split() for line in lines[3:7]]
    assert asked[0][:3] == ["as", "it", "was"] and asked[0][-2:] == ["9", "tool.schema"]
    assert asked[1][:4] == ["all", "that", "can", "be"] and asked[1][-3:] == ["20", "no", "yes"]
    assert asked[2][-6:] == ["fast", "fresh", "kept", "21", "no", "yes"]
    assert asked[3][-2:] == ["22", "loop.period"], "another trouble is no cure"
    assert "likely: gone with [a] prefix" in lines[8]
    assert lines[9].split("  ", 1)[1] == "chance: it was [sampled]"


def test_without_a_verdict_the_records_own_stands() -> None:
    gone = Judged(AxesVerdict(None, "none", "not reproduced"), lane_rows(CASE, ()), 1.0)
    assert "not reproduced; the record's verdict stands" in shown(gone)
    data = lane_data(RECORD, gone, (), "lanes:now")
    assert (data["culprit"], data["certainty"], data["reproduced"]) == ("unknown", "none", False)


def test_the_same_as_data() -> None:
    data = lane_data(RECORD, BLAMED, ("another lane: there is none",), "lanes:now")
    assert (data["culprit"], data["certainty"], data["reproduced"]) == ("prefix", "likely", True)
    assert [row["axis"] for row in data["axes"]] == ["none", "all", "prefix", "lane"]
    assert data["cannot"] == ["another lane: there is none"]
    assert data["model"] == {"then": "lanes:then", "now": "lanes:now"}
