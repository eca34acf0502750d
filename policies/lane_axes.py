"""Which question to a lane is needed next to find the layer at fault: the isolation ladder where engines are others'.

A response is asked for as it was, and with one thing changed at a time: a prefix that is read anew, nothing demanded of
the form, the plain lane. What of a lane cannot be left off alone (drafts, KV type) is named only where nothing else
tells the two lanes apart.

Must not: ask anything, or call anything certain: servers are compared, which may differ in what nobody knows.
Invariant: nobody is blamed unless the trouble was there, gone with one change, and there again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from policies.axes import AxesVerdict
from policies.blame import Culprit

LaneAxis = Literal["prefix", "filter", "lane"]
LANE_AXES: tuple[LaneAxis, ...] = ("prefix", "filter", "lane")
"""In the order they are tried: what changes on the same server comes first."""


@dataclass(frozen=True, slots=True)
class LaneSetup:
    """How a lane is asked. fresh: with a prefix that is read anew; filtered: with what the request demands."""

    lane: str
    fresh: bool = False
    filtered: bool = False


@dataclass(frozen=True, slots=True)
class LaneCase:
    """setup: as the response was asked for. plain: name of the plain lane, "" = there is none. salted: the lane can be
    made to read a prefix anew. apart: what tells the plain lane from that of the setup, as far as is known."""

    setup: LaneSetup
    plain: str = ""
    salted: bool = True
    apart: tuple[str, ...] = ()

    def changed(self, axis: LaneAxis) -> LaneSetup:
        """The setup with one thing changed; itself where it cannot be."""
        match axis:
            case "prefix":
                return replace(self.setup, fresh=self.setup.fresh or self.salted)
            case "filter":
                return replace(self.setup, filtered=False)
            case "lane":
                return replace(self.setup, lane=self.plain or self.setup.lane)

    @property
    def axes(self) -> tuple[LaneAxis, ...]:
        """Those that can be changed."""
        return tuple(axis for axis in LANE_AXES if self.changed(axis) != self.setup)

    @property
    def baseline(self) -> LaneSetup:
        """With all of it changed."""
        return LaneSetup(self.plain or self.setup.lane, self.setup.fresh or self.salted, False)


@dataclass(frozen=True, slots=True)
class LaneSeen:
    """What came of a question. found: the detector that tripped, "" = none; same: it is the trouble of then."""

    found: str
    same: bool
    tokens: int
    milliseconds: float = 0.0


Asked = Sequence[tuple[LaneSetup, LaneSeen]]


def judge_lanes(case: LaneCase, asked: Asked) -> LaneSetup | AxesVerdict:
    """The next question, or the verdict."""
    then = [seen for setup, seen in asked if setup == case.setup]
    if not then:
        return case.setup
    if not then[0].same:
        note = "not reproduced as it was asked then; a prefix that was damaged may be gone, the load is another"
        return AxesVerdict(None, "none", note)
    if not case.axes:
        return _unknown("nothing of it can be changed: one lane, no salt for its prefix, nothing demanded")
    runs = dict(asked)
    if case.baseline not in runs:
        return case.baseline
    if (all_changed := runs[case.baseline]).found:
        return _baseline(case, all_changed)
    cures: list[LaneAxis] = []
    for axis in case.axes:
        if axis == "lane" and cures == ["prefix"]:
            break  # the other lane has a cache of its own: that it is sound there says nothing more
        if (changed := case.changed(axis)) not in runs:
            return changed
        if not runs[changed].found:
            cures.append(axis)
    if not cures:
        return _unknown("no single change cures, only all of them together")
    if len(cures) > 1:
        return _unknown(f"each change alone cures: {' and '.join(_THINGS[axis] for axis in cures)}")
    if len(then) < 2:
        return case.setup
    if not then[1].same:
        return _unknown("it comes and goes: asked again with nothing changed it was not there")
    return _blamed(case, cures[0])


def lane_rows(case: LaneCase, asked: Asked) -> tuple[dict[str, Any], ...]:
    """The evidence, a row for each question in their order."""
    there = any(setup == case.setup and seen.same for setup, seen in asked)
    return tuple(
        {
            "axis": _axis_of(case, setup),
            "name": setup.lane,
            "prefix": "fresh" if setup.fresh else "as it was",
            "filtered": setup.filtered,
            "tokens": seen.tokens,
            "reason": seen.found,
            "recurs": seen.same,
            "cures": there and setup != case.setup and not seen.found,
            "milliseconds": round(seen.milliseconds, 1),
        }
        for setup, seen in asked
    )


def _axis_of(case: LaneCase, setup: LaneSetup) -> str:
    if setup == case.setup:
        return "none"
    return next((axis for axis in case.axes if case.changed(axis) == setup), "all")


def _baseline(case: LaneCase, seen: LaneSeen) -> AxesVerdict:
    if not seen.same:
        return _unknown(f"with all changed it goes wrong in another way ({seen.found})")
    if not case.plain:
        return _unknown("it is there whatever is changed, and there is no plain lane to hold it against")
    return AxesVerdict(Culprit.MODEL, "likely", f"the {case.plain} lane does the same with all changed that can be")


def _blamed(case: LaneCase, axis: LaneAxis) -> AxesVerdict:
    note = f"gone with {_THINGS[axis]} and there again without"
    if axis != "lane":
        return AxesVerdict(Culprit.PREFIX if axis == "prefix" else Culprit.FILTER, "likely", note)
    if case.apart in _LAYERS:
        return AxesVerdict(_LAYERS[case.apart], "likely", f"{note}; nothing else is known to tell the lanes apart")
    return _unknown(f"{note}; the lanes differ in {' and '.join(case.apart) or 'nothing that is known'}")


def _unknown(note: str) -> AxesVerdict:
    return AxesVerdict(Culprit.UNKNOWN, "none", note)


_LAYERS: Mapping[tuple[str, ...], Culprit] = {("speculation",): Culprit.SPECULATION, ("kv",): Culprit.KV}
_THINGS: Mapping[LaneAxis, str] = {
    "prefix": "a prefix read anew",
    "filter": "nothing demanded of the form",
    "lane": "the plain lane",
}
