"""Which run is needed next to find the layer at fault, and who it is: the isolation ladder over re-runs of one prefix.

A response is run again as it was, in the trusted baseline (plain decoding, full and cold cache, no filter), and with
one thing changed at a time. In an exact engine speculation and a prefix from the cache cannot change a token, so one
difference convicts them. A codec and a filter may change tokens by right: they are to blame if the trouble is gone
without them and there with them.

Must not: run anything, or blame a layer for what plain decoding does as well.
Invariant: the verdict depends on what was seen alone, not on the order; no more than one run per setup is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from policies.blame import Culprit
from policies.modes import PLAIN, DecodeMode

Axis = Literal["draft", "codec", "prefix", "filter"]
AXES: tuple[Axis, ...] = ("draft", "prefix", "filter", "codec")
"""In the order they are tried: what a difference proves comes before what it only suggests."""
INSTEAD = 8
"""Ids told from the first difference on."""
WRONG_SIDE = 4.0
"""How much farther from a clean cache one kernel must be than the other to be the wrong one of the two."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How a response is run. cached: it begins from a kept prefix; filtered: tokens are chosen under a constraint."""

    mode: DecodeMode
    cached: bool = False
    filtered: bool = False

    def without(self, axis: Axis) -> Setup:
        """The same with one thing switched off."""
        match axis:
            case "draft":
                return replace(self, mode=replace(self.mode, drafter="none"))
            case "codec":
                return replace(self, mode=replace(self.mode, codec="full"))
            case "prefix":
                return replace(self, cached=False)
            case "filter":
                return replace(self, filtered=False)


BASELINE = Setup(PLAIN)


@dataclass(frozen=True, slots=True)
class Case:
    """What tripped. position: token at which the evidence was complete; setup: as the response was decoded.

    said: the response's tokens as they were then, to the trip and beyond. exact: the backend passed its bitwise
    self-test.
    """

    detector: str
    position: int
    setup: Setup
    said: tuple[int, ...]
    exact: bool = True

    @property
    def measured(self) -> bool:
        """The finding is about the engine's numbers, not about what was said."""
        return self.detector.startswith("drift.")

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Those that can be changed."""
        return tuple(axis for axis in AXES if self.setup.without(axis) != self.setup)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run showed. said: its tokens from the response's first one on; ended: the last of them ended it.

    recurs: the same detector tripped. mismatch: an audited step was unlike plain decoding; foreign: what was taken over
    was unlike its recomputation. dirty: with a full cache,
    a clean recomputation gave other bits. replaced: tokens that the filter put in place of others. kls: position
    and KL, in nats, of a clean full cache from the one in use, of each token that was checked.
    cached: positions taken over; prefix: from a `kept` prefix, or one `made` for the run because none was left.
    forced: first tokens of the response that were taken as they were then, whoever had chosen them.
    """

    said: tuple[int, ...]
    ended: bool = False
    recurs: bool = False
    mismatch: bool = False
    foreign: bool = False
    dirty: bool = False
    replaced: int = 0
    kls: tuple[tuple[int, float], ...] = ()
    cached: int = 0
    prefix: Literal["kept", "made", "cold"] = "cold"
    forced: int = 0
    milliseconds: float = 0.0

    @property
    def kl(self) -> float | None:
        """The mean over what was checked; None = nothing was."""
        return sum(kl for _, kl in self.kls) / len(self.kls) if self.kls else None


@dataclass(frozen=True, slots=True)
class AxesVerdict:
    """culprit None = nothing is known beyond what was: the trouble did not come again, or the runs were not finished.
    note: why, for people."""

    culprit: Culprit | None
    certainty: Literal["certain", "likely", "none"]
    note: str
    finished: bool = True


Runs = Mapping[Setup, Seen]


def judge(case: Case, runs: Runs, axes: Collection[Axis] = ()) -> Setup | AxesVerdict:
    """The next run that is needed, or the verdict as soon as it is certain.

    axes: run all of these before there is a verdict; the baseline and the setup of then are run in any case.
    """
    if axes:
        for setup in (BASELINE, case.setup, *(case.setup.without(axis) for axis in AXES if axis in axes)):
            if setup not in runs:
                return setup
    if case.detector == "drift.prefix":
        return _FOREIGN if case.setup in runs else case.setup
    return _audited(case, runs) if case.detector == "drift.audit" else _suspects(case, runs)


def conclude(case: Case, runs: Runs, why: str) -> AxesVerdict:
    """The verdict when no more runs can be made. why: the reason, for people."""
    verdict = judge(case, runs)
    if isinstance(verdict, AxesVerdict):
        return verdict
    return AxesVerdict(None, "none", f"not finished: {why}", finished=False)


def first_difference(one: Sequence[int], other: Sequence[int], *, whole: bool = False) -> int | None:
    """Index of the first token in which they differ, None = in none. whole: a missing token is a difference too."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other)) if whole and len(one) != len(other) else None


def rows(case: Case, runs: Runs) -> tuple[dict[str, Any], ...]:
    """The evidence, a row per run in the order of the runs. first_difference: from what was said then."""
    table = []
    for setup, seen in runs.items():
        at = first_difference(seen.said, case.said)
        table.append(
            {
                "axis": axis_of(case, setup),
                "mode": str(setup.mode),
                "cached": seen.cached,
                "prefix": seen.prefix,
                "filtered": setup.filtered,
                "tokens": len(seen.said),
                "first_difference": at,
                "instead": [] if at is None else list(seen.said[at : at + INSTEAD]),
                "recurs": _shows(case, seen),
                "cures": case.setup in runs and _is_bad(case, runs[case.setup]) and not _is_bad(case, seen),
                "audit_mismatch": seen.mismatch,
                "clean": None if seen.kl is None or setup.mode.codec != "full" else not seen.dirty,
                "kl": seen.kl,
                "replaced": seen.replaced,
                "milliseconds": round(seen.milliseconds, 1),
            }
        )
    return tuple(table)


def axis_of(case: Case, setup: Setup) -> str:
    """What was changed: an axis, `none`, or `all` for the baseline where that is more than one."""
    if setup == case.setup:
        return "none"
    return next((axis for axis in AXES if case.setup.without(axis) == setup), "all")


def _suspects(case: Case, runs: Runs) -> Setup | AxesVerdict:
    """The baseline first: most trouble is the model's own, and that needs one run alone."""
    baseline, then = runs.get(BASELINE), runs.get(case.setup)
    if baseline is None:
        return BASELINE
    if baseline.dirty and case.exact:
        note = "plain decoding with a full cache does not hold what a clean recomputation gives"
        return AxesVerdict(Culprit.KV, "certain", note)
    if _shows(case, baseline):
        return _model(case, baseline)
    if then is None:
        return case.setup
    if then.foreign:
        return _FOREIGN
    if then.mismatch:
        return _audited(case, runs)
    shown = _shows(case, then)
    for axis in case.axes:
        if not shown and axis != "draft":  # it may still be proven that drafts change the text
            continue
        changed = case.setup.without(axis)
        if changed not in runs:
            return changed
        if shown and axis == "codec" and _cures(case, runs, "filter"):
            continue
        found = _convicts(case, axis, then, runs[changed])
        if found is not None:
            return found
    if not shown:
        return _transient(case)
    cures = [axis for axis in case.axes if _cures(case, runs, axis)]
    if not cures and first_difference(then.said, baseline.said) is None:
        return AxesVerdict(Culprit.UNKNOWN, "none", "plain decoding says the same, so no layer has changed anything")
    if len(cures) == 1:
        return AxesVerdict(_CULPRITS[cures[0]], "likely", f"gone without {_THINGS[cures[0]]}, and only then")
    if cures:
        things = " and ".join(_THINGS[axis] for axis in cures)
        return AxesVerdict(Culprit.UNKNOWN, "none", f"each change alone cures: {things}")
    return AxesVerdict(Culprit.UNKNOWN, "none", "no single change cures, only all of them together")


def _convicts(case: Case, axis: Axis, then: Seen, without: Seen) -> AxesVerdict | None:
    """Whether one changed thing is to blame, as far as this run alone can tell."""
    shown = _shows(case, then)
    if _shows(case, without):
        return None
    thing, culprit = _THINGS[axis], _CULPRITS[axis]
    if axis == "draft" and then.prefix != without.prefix:  # a kept prefix went meanwhile: two things have changed
        return None
    if axis in ("draft", "prefix"):
        if not case.exact:
            return AxesVerdict(culprit, "likely", f"gone without {thing}") if shown else None
        if _same(case, then, without):
            return None
        certainty: Literal["certain", "likely"] = "certain" if shown else "likely"
        return AxesVerdict(culprit, certainty, f"gone without {thing}, which must not change anything")
    if axis == "filter":
        if case.exact and then.replaced:
            note = f"gone without {thing}, which replaced {then.replaced} tokens"
            return AxesVerdict(culprit, "certain", note)
        return None
    certain = case.exact and case.measured
    return AxesVerdict(culprit, "certain" if certain else "likely", f"gone without {thing}, and only then")


def _audited(case: Case, runs: Runs) -> Setup | AxesVerdict:
    """A recomputed step was unlike plain decoding. Of the two, plain decoding can be the wrong one only where a codec
    is read by kernels of its own."""
    proven = AxesVerdict(Culprit.SPECULATION, "certain", "an audited verify step was unlike plain decoding")
    then, full, alone = case.setup, case.setup.without("codec"), case.setup.without("draft")
    if then not in runs:
        return then
    if full == then or not runs[then].mismatch:
        return proven
    if full not in runs:
        return full
    if runs[full].mismatch:
        return proven
    if alone not in runs:
        return alone
    if _is_wrong_side(runs[alone], runs[then]):
        note = "with a full cache they agree; of the two ways to read the codes, that for single rows is the wrong one"
        return AxesVerdict(Culprit.KV, "likely", note)
    return proven


def _is_wrong_side(plain: Seen, verifying: Seen) -> bool:
    """Whether plain decoding is much farther from a clean cache than verify steps are, at the same positions after the
    same tokens."""
    alike = first_difference(plain.said, verifying.said)
    ours, theirs = dict(plain.kls), dict(verifying.kls)
    both = [at for at in ours.keys() & theirs.keys() if alike is None or at <= alike]
    far, near = sum(ours[at] for at in both), sum(theirs[at] for at in both)
    return far > WRONG_SIDE * near


def _model(case: Case, baseline: Seen) -> AxesVerdict:
    if case.measured:
        note = "plain decoding with a full, cold cache has the same numbers: nothing that can be switched off did it"
        return AxesVerdict(Culprit.MODEL, "likely", note)
    checked = baseline.kl is not None
    note = "plain decoding with a full, cold cache does the same" + (", and its cache is sound" if checked else "")
    if baseline.forced:  # a wrong token among them may have led the model there
        note = f"behind the first {baseline.forced} tokens, which were taken as they were, {note}"
    certain = case.exact and checked and not baseline.forced
    return AxesVerdict(Culprit.MODEL, "certain" if certain else "likely", note)


def _transient(case: Case) -> AxesVerdict:
    """It did not come again. A suspicion is no verdict: the record's own stands."""
    note = "not reproduced in the mode of then"
    if case.setup.cached:
        note += "; what cannot be run again is the company of other responses, and the prefix as it was kept then"
    return AxesVerdict(None, "none", note)


def _shows(case: Case, seen: Seen) -> bool:
    """The trouble is there: it is found again, or the same was said up to where it was found."""
    if seen.recurs or case.measured:
        return seen.recurs
    known = case.said[: case.position + 1]
    return len(known) > case.position and seen.said[: len(known)] == known


def _is_bad(case: Case, seen: Seen) -> bool:
    """The trouble is there, or what proves its cause."""
    return _shows(case, seen) or seen.mismatch or seen.foreign


def _same(case: Case, then: Seen, without: Seen) -> bool:
    """Nothing has changed that an exact engine must keep: a detector that is silent now proves nothing by itself."""
    if then.recurs and case.detector in _STATE:  # the bits differ, if not yet the tokens
        return False
    return first_difference(then.said, without.said, whole=then.ended and without.ended) is None


def _cures(case: Case, runs: Runs, axis: Axis) -> bool:
    changed = case.setup.without(axis)
    if axis not in case.axes or changed not in runs or _shows(case, runs[changed]):
        return False
    proves_by_bits = case.exact and axis in ("draft", "prefix")
    return not (proves_by_bits and _same(case, runs[case.setup], runs[changed]))


_FOREIGN = AxesVerdict(
    Culprit.PREFIX, "certain", "what was taken over is not what the prompt gives when computed again"
)
_STATE = ("drift.shadow", "drift.nonfinite")
"""Findings that read the state of the engine; other numbers depend on who drafts and on chance."""


_CULPRITS: Mapping[Axis, Culprit] = {
    "draft": Culprit.SPECULATION,
    "codec": Culprit.KV,
    "prefix": Culprit.PREFIX,
    "filter": Culprit.FILTER,
}
_THINGS: Mapping[Axis, str] = {
    "draft": "speculation",
    "codec": "the KV codec",
    "prefix": "the kept prefix",
    "filter": "the filter on tokens",
}
