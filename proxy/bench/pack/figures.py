"""Figures of one mode on one workload, each with what chance leaves open.

Must not: merge figures of different workloads or modes into one score.
Invariant: what was not observed is None, never 0; the same answers give the same intervals (bootstrap by a fixed seed).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from statistics import median
from typing import Any

from proxy.bench.pack.client import Answer, Drafts

Z = 1.96
RESAMPLES = 400


@dataclass(frozen=True, slots=True)
class Rate:
    """value with its 95 % interval. of: how many observations."""

    value: float
    low: float
    high: float
    of: int


def wilson(good: int, of: int) -> Rate | None:
    """A proportion with Wilson's score interval; None of nothing."""
    if not of:
        return None
    share, spread = good / of, Z * Z / of
    middle = (share + spread / 2) / (1 + spread)
    half = Z * sqrt(share * (1 - share) / of + spread / (4 * of)) / (1 + spread)
    return Rate(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)), of)


def per_second(pairs: Sequence[tuple[int, float]]) -> Rate | None:
    """Of (amount, seconds): all amounts by all seconds, bootstrapped over the pairs; None without any time."""
    pairs = [(amount, seconds) for amount, seconds in pairs if amount > 0 and seconds > 0]
    return Rate(_ratio(pairs), *_drawn(pairs), len(pairs)) if pairs else None


def _drawn(pairs: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """95 % of the ratios of pairs that are drawn again."""
    rng = random.Random(0)
    drawn = sorted(_ratio(rng.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    return drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES)]


def _ratio(pairs: Sequence[tuple[int, float]]) -> float:
    return sum(amount for amount, _ in pairs) / sum(seconds for _, seconds in pairs)


@dataclass(slots=True)
class Trial:
    """One step of a workload as it went. good: whether what it was judged by holds, None = it is not judged."""

    name: str
    answers: list[Answer]
    seconds: float
    processor_s: float = 0.0
    good: bool | None = None
    first_edit_s: float | None = None
    unknown: tuple[str, ...] = ()
    off: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """seconds: of the whole loop, tests and all; processor_s: of this process and its tests, which is the engine's too
    where it runs in here. prefill, decode: tokens/s. valid: tool calls, those that the guard kept back too; passed: of
    what is judged. loops: caught by the guard, or received. trips: answers that the guard had something to say about;
    fallbacks: into a safer mode in mid-response; refused: responses that began in a safer mode at once. failures:
    answers that never came. unknown_names: trials that leave names which are nowhere defined; lines_off: unlike the
    reference, mean. text: a digest of all that was said. timed: seconds of each trial, round by round; seconds and
    processor_s are means of the rounds. Of what is bad the worst round counts, all else is of the first.
    """

    mode: str
    workload: str
    trials: int
    seconds: float
    processor_s: float
    prefill: Rate | None
    decode: Rate | None
    acceptance: Rate | None
    by_position: tuple[tuple[int, int], ...]
    valid: Rate | None
    passed: Rate | None
    first_edit_s: float | None
    prompt_tokens: float
    tokens: int
    loops: int
    trips: int
    fallbacks: int
    refused: int
    failures: int
    unknown_names: int
    lines_off: float | None
    text: str
    notes: tuple[str, ...] = ()
    timed: tuple[tuple[float, ...], ...] = ()

    def plain(self) -> dict[str, Any]:
        """JSON data."""
        return asdict(self)


def figures(mode: str, workload: str, trials: Sequence[Trial], loops: Mapping[str, str] | None = None) -> Figures:
    """loops: incident id -> detector, of what the guard has told; those of loops count."""
    answers = [answer for trial in trials for answer in trial.answers]
    told = [answer for answer in answers if not answer.failed]
    known = dict(loops or {})
    calls = [call for answer in told for call in answer.calls]
    cut = [any(known.get(id, "").startswith("loop") for id in answer.incidents) for answer in told]
    refused = [known[id] for answer in answers for id in answer.incidents if known.get(id, "").startswith("tool.")]
    drafts = [answer.drafts for answer in told if answer.drafts is not None]
    edits = [trial.first_edit_s for trial in trials if trial.first_edit_s is not None]
    judged = [trial.good for trial in trials if trial.good is not None]
    off = [trial.off for trial in trials if trial.off is not None]
    return Figures(
        mode=mode,
        workload=workload,
        trials=len(trials),
        seconds=sum(trial.seconds for trial in trials),
        processor_s=sum(trial.processor_s for trial in trials),
        prefill=per_second([(answer.computed, answer.prompt_s) for answer in told]),
        decode=per_second([(answer.tokens, answer.decode_s) for answer in told]),
        acceptance=_acceptance(drafts),
        by_position=positions(drafts),
        valid=wilson(sum(not call.problem for call in calls), len(calls) + len(refused)),
        passed=wilson(sum(judged), len(judged)),
        first_edit_s=median(edits) if edits else None,
        prompt_tokens=sum(answer.prompt for answer in told) / len(told) if told else 0.0,
        tokens=sum(answer.tokens for answer in told),
        loops=sum(was_cut or bool(answer.loop) for was_cut, answer in zip(cut, told, strict=True)),
        trips=sum(bool(answer.incidents) for answer in answers),
        fallbacks=sum(answer.fell_back for answer in told),
        refused=0 if mode == "served" else sum(bool(a.began_in) and a.began_in != mode for a in told),
        failures=len(answers) - len(told),
        unknown_names=sum(bool(trial.unknown) for trial in trials),
        lines_off=sum(off) / len(off) if off else None,
        text=digest(answers),
        notes=tuple(dict.fromkeys(answer.failed for answer in answers if answer.failed))[:4],
        timed=(tuple(trial.seconds for trial in trials),),
    )


def again(before: Figures, later: Figures) -> Figures:
    """Of one more round of the same."""
    rounds = len(before.timed)
    bad = ("loops", "trips", "fallbacks", "refused", "failures", "unknown_names")
    return replace(
        before,
        timed=before.timed + later.timed,
        seconds=(before.seconds * rounds + later.seconds) / (rounds + 1),
        processor_s=(before.processor_s * rounds + later.processor_s) / (rounds + 1),
        valid=_worse(before.valid, later.valid),
        passed=_worse(before.passed, later.passed),
        # equal rounds have the digest of one; else nothing but the same rounds has the same
        text=before.text if later.text == before.text.partition("+")[0] else f"{before.text}+{later.text}",
        notes=tuple(dict.fromkeys(before.notes + later.notes))[:4],
        **{name: max(getattr(before, name), getattr(later, name)) for name in bad},
    )


def _worse(one: Rate | None, other: Rate | None) -> Rate | None:
    return min((rate for rate in (one, other) if rate is not None), key=lambda rate: rate.value, default=None)


def positions(drafts: Sequence[Drafts]) -> tuple[tuple[int, int], ...]:
    """(drafted, accepted) at each position of a draft."""
    longest = max((len(each.by_position) for each in drafts), default=0)
    rows = [[each.by_position[i] for each in drafts if len(each.by_position) > i] for i in range(longest)]
    return tuple((sum(n for n, _ in row), sum(kept for _, kept in row)) for row in rows)


def _acceptance(drafts: Sequence[Drafts]) -> Rate | None:
    """Drafts of one answer are alike, so the interval is no narrower than that of answers that are drawn again."""
    pairs = [(each.accepted, each.drafted) for each in drafts if each.drafted]
    rate = wilson(sum(accepted for accepted, _ in pairs), sum(drafted for _, drafted in pairs))
    if rate is None:
        return None
    low, high = _drawn(pairs)
    return Rate(rate.value, min(rate.low, low), max(rate.high, high), rate.of)


def digest(answers: Sequence[Answer]) -> str:
    """Of everything that was said, in order: equal for equal texts and calls."""
    said = [[a.text, [[c.name, c.arguments] for c in a.calls], list(a.ids), bool(a.failed)] for a in answers]
    return hashlib.sha256(json.dumps(said).encode("utf-8", "surrogatepass")).hexdigest()[:16]
