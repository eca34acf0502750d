"""Drafters (and the peer) side by side: interleaved rounds over the same prompts, and what follows from the times.

Must not: compare times of different rounds, or count tokens that differ between drafters as a gain.
Invariant: a ratio is taken within one round, over all prompts of a workload; reported is the median over rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from engine.bench.measure import Sample, acceptance, measure
from engine.bench.peer import Peer
from engine.bench.report import Bar, Table
from engine.bench.workloads import TITLES, Prompt
from engine.engine import Engine

PEER = "transformers greedy"
SHOWN_POSITIONS = 4
BARS = (
    ("agent", "mtp+ngram", "none", 2.0),
    ("rewrite", "mtp+ngram", "none", 2.5),
    ("agent", "none", PEER, 1.5),
    ("rewrite", "none", PEER, 1.5),
    ("agent", "mtp+ngram", PEER, 3.0),
    ("rewrite", "mtp+ngram", PEER, 3.0),
)
"""(workload, mode, mode it is compared with, least ratio of their speeds)"""


@dataclass(slots=True)
class Comparison:
    """One workload. rounds: mode -> per round the samples of all prompts; peer: per round (seconds, tokens)."""

    workload: str
    prompts: Sequence[Prompt]
    rounds: dict[str, list[list[Sample]]] = field(default_factory=dict)
    peer: list[tuple[float, int]] = field(default_factory=list)
    peer_agrees: list[bool] = field(default_factory=list)

    def speeds(self, mode: str) -> list[float]:
        """Tokens per second of decoding, one per round; empty if the mode was not run."""
        if mode == PEER:
            return [tokens / seconds for seconds, tokens in self.peer]
        return [
            sum(len(s.tokens) for s in samples) / sum(s.decode_s for s in samples)
            for samples in self.rounds.get(mode, [])
        ]

    def ratio(self, mode: str, base: str) -> float | None:
        """Median over rounds of speed(mode) / speed(base); None if one of them was not run."""
        pairs = list(zip(self.speeds(mode), self.speeds(base), strict=False))
        return median(a / b for a, b in pairs) if pairs else None

    def unequal(self) -> int:
        """Replies whose tokens differ from those of the first round without a drafter."""
        expected = [sample.tokens for sample in self.rounds["none"][0]]
        return sum(
            sample.tokens != tokens
            for rounds in self.rounds.values()
            for samples in rounds
            for sample, tokens in zip(samples, expected, strict=True)
        )


def compare(
    engine: Engine,
    workload: str,
    prompts: Sequence[Prompt],
    rounds: int,
    peer: Peer | None,
    progress: Callable[[str], None],
) -> Comparison:
    """Runs every drafter that the model has, and the peer, on every prompt, `rounds` times in turn."""
    result = Comparison(workload, prompts, {drafter: [] for drafter in engine.drafters})
    for drafter in engine.drafters:  # the first use of a kernel or a code path is not what is measured
        measure(engine, prompts[0], drafter)
    if peer is not None:
        peer.generate(prompts[0], 4)
    for number in range(rounds):
        for drafter in engine.drafters:
            result.rounds[drafter].append([])
        seconds, tokens = 0.0, 0
        for prompt in prompts:
            for drafter in engine.drafters:
                result.rounds[drafter][number].append(measure(engine, prompt, drafter))
            if peer is not None:
                plain = result.rounds["none"][number][-1].tokens
                said, took, count = peer.generate(prompt, len(plain))
                seconds, tokens = seconds + took, tokens + count
                if prompt.sampling.greedy:
                    result.peer_agrees.append(said == plain)
        if peer is not None:
            result.peer.append((seconds, tokens))
        speeds = ", ".join(f"{mode} {result.speeds(mode)[-1]:.0f}" for mode in result.rounds)
        progress(f"{TITLES[workload]}, round {number + 1} of {rounds}: tokens/s {speeds}")
    return result


def table(result: Comparison) -> Table:
    """One row per mode; medians over rounds."""
    rows: list[tuple[Any, ...]] = []
    for mode, rounds in result.rounds.items():
        samples = [sample for taken in rounds for sample in taken]
        steps = sum(s.steps for s in samples)
        decode, draft = sum(s.decode_s for s in samples), sum(s.draft_s for s in samples)
        shares = acceptance(samples, SHOWN_POSITIONS)
        rows.append(
            (
                mode,
                median(result.speeds(mode)),
                result.ratio(mode, "none"),
                result.ratio(mode, PEER),
                sum(len(s.tokens) for s in samples) / steps,
                *shares,
                draft / steps * 1e3,
                (decode - draft) / steps * 1e3,
                median(sum(s.prefill_s for s in taken) for taken in rounds) / len(result.prompts) * 1e3,
            )
        )
    if result.peer:
        speed, against = median(result.speeds(PEER)), result.ratio(PEER, "none")
        rows.append((PEER, speed, against, 1.0, 1.0, *[None] * (SHOWN_POSITIONS + 3)))
    positions = tuple(f"acc {i + 1}" for i in range(SHOWN_POSITIONS))
    columns = ("mode", "tokens/s", "x none", "x peer", "tok/step", *positions, "draft ms", "verify ms", "prefill ms")
    tokens = sum(len(s.tokens) for s in result.rounds["none"][0])
    return Table(f"{TITLES[result.workload]}: {len(result.prompts)} replies, {tokens} tokens", columns, tuple(rows))


def bars(results: dict[str, Comparison], why_not: dict[str, str]) -> tuple[list[Bar], dict[str, str]]:
    """The bars of what was run, and for the others why they were not measured. why_not: workload or PEER -> reason."""
    found: list[Bar] = []
    unmeasured: dict[str, str] = {}
    for workload, mode, base, least in BARS:
        name = f"{TITLES[workload]}: {mode} against {base if base == PEER else 'own plain'}"
        ratio = results[workload].ratio(mode, base) if workload in results else None
        if ratio is not None:
            found.append(Bar.at_least(name, least, ratio, "x"))
        else:
            default = f"this model cannot draft with {mode}"
            unmeasured[name] = why_not.get(workload) or (base == PEER and why_not.get(PEER)) or default
    if results:
        name = "same text: replies that differ from plain decoding's"
        found.append(Bar.at_most(name, 0, sum(result.unequal() for result in results.values())))
    return found, unmeasured


def figures(result: Comparison) -> dict[str, Any]:
    """Raw numbers per mode and round, for machines."""
    modes = {
        mode: {
            "tokens_per_second": result.speeds(mode),
            "times_none": result.ratio(mode, "none"),
            "times_peer": result.ratio(mode, PEER),
            "acceptance": acceptance([s for taken in rounds for s in taken], max(_longest(rounds), 1)),
            "prefill_s": [sum(s.prefill_s for s in taken) for taken in rounds],
            "decode_s": [sum(s.decode_s for s in taken) for taken in rounds],
            "draft_s": [sum(s.draft_s for s in taken) for taken in rounds],
            "steps": [sum(s.steps for s in taken) for taken in rounds],
        }
        for mode, rounds in result.rounds.items()
    }
    peer = {"tokens_per_second": result.speeds(PEER), "same_greedy_text": result.peer_agrees} if result.peer else None
    return {"prompts": [prompt.name for prompt in result.prompts], "modes": modes, "peer": peer}


def _longest(rounds: list[list[Sample]]) -> int:
    return max((drafted for taken in rounds for sample in taken for drafted, _ in sample.runs), default=0)
