"""What to switch on, in words with reasons, from a report's figures as they stand in the JSON.

Must not: weigh speed against soundness, or name a winner that chance may have made.
Invariant: a mode that loops, breaks calls, fails tests or says something else where it may not cannot be recommended,
however fast it is; where nothing can be recommended, plain decoding is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from policies.modes import DecodeMode
from proxy.bench.pack.paired import ratio

PLAIN, SERVED = "plain", "served"
LOSS = 0.02
"""Of the tests passed, so much may be lost to a compressed cache, which is allowed to say something else."""
GAIN = 0.95
"""Of plain decoding's time; a mode that takes more is not worth its risk."""
NOWHERE = "repairs leave names that are nowhere"
TOLD = 3
"""Reasons that are told in the words."""
Plain = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """against: what speaks against a mode, empty = it is sound as far as this was measured. time: of plain's; low,
    high: its 95 % interval, None = it was measured in one round only."""

    mode: str
    against: tuple[str, ...]
    time: float | None
    low: float | None = None
    high: float | None = None

    @property
    def is_quicker(self) -> bool:
        """By enough to be worth it, and beyond chance."""
        return self.time is not None and self.time <= GAIN and self.high is not None and self.high < 1.0

    @property
    def told(self) -> str:
        time = f"{self.time:.2f}"
        return time if self.low is None or self.high is None else f"{time} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True, slots=True)
class Recommendation:
    """mode: empty = there is nothing to compare. words: the recommendation as text."""

    mode: str
    words: str
    verdicts: tuple[Verdict, ...]

    def plain(self) -> dict[str, Any]:
        """JSON data."""
        return asdict(self)


def recommend(
    modes: Mapping[str, Mapping[str, Plain]], exactness: str = "bitwise", partial: bool = False
) -> Recommendation:
    """modes: mode -> workload -> figures as in the JSON. exactness: what the engine promises; partial: the run was
    stopped, so that not every mode has met every workload."""
    reference = modes.get(PLAIN)
    verdicts = tuple(judge(mode, own, reference, exactness) for mode, own in modes.items())
    if not reference:
        return _alone(verdicts)
    sound = [v for v in verdicts if not v.against and v.mode != PLAIN and v.time is not None]
    quicker = sorted((v for v in sound if v.is_quicker), key=_time)
    refused = [verdict for verdict in verdicts if verdict.against and verdict.mode != PLAIN]
    timed = _timed(reference)
    chosen, unclear = _chosen(quicker, modes)
    if chosen is not None:
        words = [_choice(chosen, len(timed)), *unclear]
    else:
        words = [_none(sound) if timed else "Nothing can be recommended: in plain decoding answers failed everywhere."]
    fastest = min((v for v in verdicts if v.time is not None), key=_time, default=None)
    if fastest is not None and fastest.against and fastest.mode != PLAIN:
        words.append(f"{fastest.mode} was the fastest at {fastest.told} of plain's time and is refused all the same.")
    words += [f"Not {v.mode}: {_brief(v.against)}." for v in refused]
    words += [f"{v.mode} is sound too, at {v.told} of plain's time." for v in quicker if v is not chosen]
    own = next(v for v in verdicts if v.mode == PLAIN)
    if own.against:
        words.append(
            f"Plain decoding itself: {_brief(own.against)}; that is the model or its server, and no mode mends it."
        )
    if untimed := [name for name in reference if name not in timed]:
        words.append(f"Times are without {', '.join(untimed)}: where answers fail in plain, time tells nothing.")
    if partial:
        words.append("The run was stopped early; measure again before you rely on this.")
    return Recommendation(chosen.mode if chosen is not None else PLAIN, " ".join(words), verdicts)


def _timed(reference: Mapping[str, Plain]) -> dict[str, Plain]:
    """Workloads whose time can be held against another's: what fails may fail fast."""
    return {name: figures for name, figures in reference.items() if not figures["failures"]}


def _chosen(quicker: Sequence[Verdict], modes: Mapping[str, Mapping[str, Plain]]) -> tuple[Verdict | None, list[str]]:
    """The quickest; of those that chance alone may tell from it one that says the same text as plain decoding."""
    if not quicker:
        return None, []
    best, rivals, told = quicker[0], [], []
    for other in quicker[1:]:
        between = ratio(_timed(modes[other.mode]), _timed(modes[best.mode]))
        if between is None or between.low <= 1.0:
            rivals.append(other)
            told.append(f"{other.mode} takes {between} of its time" if between is not None else other.mode)
    if not rivals:
        return best, []
    chosen = min((best, *rivals), key=lambda v: (_is_coded(v.mode), _time(v)))
    why = "it was the quickest here" if chosen is best else f"its text is plain's, which {best.mode}'s need not be"
    unclear = f"There is no clear winner: beside {best.mode}, {'; '.join(told)}."
    return chosen, [f"{unclear} {chosen.mode} is named because {why}."]


def _is_coded(mode: str) -> bool:
    """Whether its cache is compressed, as far as its name tells."""
    return mode != SERVED and DecodeMode.parse(mode).codec != "full"


def _time(verdict: Verdict) -> float:
    return 1.0 if verdict.time is None else verdict.time


def judge(mode: str, own: Mapping[str, Plain], reference: Mapping[str, Plain] | None, exactness: str) -> Verdict:
    """Held against plain decoding, workload by workload; alone, against nothing but itself."""
    found = [
        f"{name}: {reason}"
        for name, figures in own.items()
        for reason in against(mode, figures, (reference or {}).get(name), exactness)
    ]
    if not own:
        return Verdict(mode, ("nothing of it was measured",), None)
    if reference is None:
        return Verdict(mode, tuple(found), None)
    if missing := [name for name in reference if name not in own]:
        found.append(f"it has not met {', '.join(missing)}")
    timed = _timed(reference)
    shared = [name for name in own if name in timed]
    theirs = sum(reference[name]["seconds"] for name in shared)
    time = sum(own[name]["seconds"] for name in shared) / theirs if theirs else None
    repeated = ratio(own, timed) if mode != PLAIN else None
    if repeated is None:
        return Verdict(mode, tuple(found), time)
    return Verdict(mode, tuple(found), repeated.value, repeated.low, repeated.high)


def against(mode: str, own: Plain, plain: Plain | None, exactness: str, chance: int = 0) -> list[str]:
    """What speaks against a mode on one workload. Without plain decoding beside it, or being that, everything that is
    not as it should be does. chance: so many tests or calls may be lost where a mode may say something else."""
    beside = plain if plain is not None and mode != PLAIN else None
    found = []
    other = _is_coded(mode) or exactness != "bitwise"
    few = max(chance, int(LOSS * own["trials"])) if other else 0
    for name, text, more in (("failures", "answers failed", 0), ("loops", "loops", 0), ("unknown_names", NOWHERE, few)):
        if own[name] > (beside[name] + more if beside else 0):
            found.append(f"{own[name]} {text}" + (f", plain {beside[name]}" if beside else ""))
    if beside and own["trips"] > beside["trips"]:
        found.append(f"the guard had to step in {own['trips']} times, in plain {beside['trips']}")
    if own["refused"]:
        found.append(f"{own['refused']} answers began in a safer mode")
    for name, what in (("valid", "tool calls are valid"), ("passed", "pass")):
        mine, theirs = own[name], beside[name] if beside else None
        if mine is None and theirs is not None:
            found.append(f"nothing was there to be counted, {_share(theirs)} {what} in plain")
        if mine is None or (beside and theirs is None):
            continue
        least = 1.0 if name == "valid" else 0.0
        if theirs is not None:
            least = theirs["value"] - (max(LOSS, chance / theirs["of"]) if other else 0.0)
        if mine["value"] < least - 1e-9:
            found.append(f"{_share(mine)} {what}" + (f", {_share(theirs)} in plain" if theirs else ""))
    drafts = own["acceptance"]
    if drafts is not None and drafts["of"] >= 20 and drafts["value"] == 0:
        found.append(f"not one of {drafts['of']} drafts was accepted")
    if beside and not other and own["text"] != beside["text"]:
        found.append("it says something else than plain decoding, with the same seed")
    return found


def _brief(reasons: tuple[str, ...]) -> str:
    """The first ones; all of them stand in the verdict."""
    more = len(reasons) - TOLD
    return "; ".join(reasons[:TOLD]) + (f"; and {more} more" if more > 0 else "")


def _share(rate: Plain) -> str:
    return f"{round(rate['value'] * rate['of'])} of {rate['of']}"


def _choice(best: Verdict, workloads: int) -> str:
    coded = best.mode == SERVED or _is_coded(best.mode)  # who knows what is served
    kept = "as many tests passed and calls valid" if coded else "the same text"
    return (
        f"Switch on {best.mode}: {best.told} of plain decoding's time over {workloads} workloads, with {kept}, no "
        "more loops, and nothing for the guard to do that it has not to do in plain decoding."
    )


def _none(sound: Sequence[Verdict]) -> str:
    if not sound:
        return "Stay with plain decoding: no other mode was found sound."
    told = ", ".join(f"{v.mode} at {v.told}" for v in sorted(sound, key=_time))
    if any(v.high is None for v in sound):
        return (
            "Stay with plain decoding for now: of one round nothing is recommended, chance may have made the "
            f"difference. Sound so far, of plain's time: {told}. Measure with --rounds 2 or more."
        )
    if any(v.low is not None and v.low < 1.0 and _time(v) <= GAIN for v in sound):
        return (
            f"No clear winner, so stay with plain decoding: of its time {told}, and what chance leaves open includes "
            "no gain."
        )
    return f"Stay with plain decoding: no sound mode takes less than {GAIN} of its time here ({told})."


def _alone(verdicts: tuple[Verdict, ...]) -> Recommendation:
    parts = ["Plain decoding was not measured, so nothing can be recommended; measure it too."]
    for verdict in verdicts:
        told = "; ".join(verdict.against) or "nothing speaks against it by itself"
        parts.append(f"{verdict.mode}: {told}.")
    return Recommendation("", " ".join(parts), verdicts)
