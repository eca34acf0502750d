"""What the demo claims, and whether it held: three transcripts and the incidents in, checks out.

Must not: start anything or print.
Invariant: every claim on the last panel is one check here; the demo succeeds only if all of them held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from examples.agent.transcript import Transcript
from examples.demo.compare import compare


@dataclass(frozen=True, slots=True)
class Check:
    claim: str
    held: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Runs:
    """The same task three times: at full speed, in plain decoding, at full speed with the fault planted."""

    fast: Transcript
    plain: Transcript
    planted: Transcript


def judge(runs: Runs, incidents: Sequence[Mapping[str, Any]]) -> list[Check]:
    """incidents: the data of each incident record of the planted run (`opened` and `closed`)."""
    speed = compare(runs.plain, runs.fast)
    healed = compare(runs.plain, runs.planted)
    blamed = [str((incident.get("closed") or {}).get("culprit", "nobody")) for incident in incidents]
    rewound = sum(int((incident.get("opened") or {}).get("tokens_rewound") or 0) for incident in incidents)
    ended_in = ", ".join(sorted({turn.mode for turn in runs.planted.turns if turn.incidents})) or "none"
    fallen = [turn for turn in runs.planted.turns if turn.incidents]
    readable = all(is_readable(turn.calls) for turn in runs.planted.turns)
    return [
        Check("the agent repaired the bug", runs.fast.tests_green is True, f"{len(runs.fast.turns)} turns"),
        Check("speculation changed no token", speed.same and speed.by_tokens, str(speed)),
        Check(
            "the planted fault was caught",
            bool(incidents),
            f"{count(incidents, 'incident')}, {rewound} tokens taken back",
        ),
        Check(
            "the same response went on in plain decoding",
            bool(fallen) and all(turn.mode == "plain" for turn in fallen),
            f"{count(fallen, 'response')} ended in mode {ended_in}",
        ),
        Check(
            "speculation was blamed",
            bool(blamed) and set(blamed) == {"speculation"},
            ", ".join(f"{blamed.count(who)} x {who}" for who in sorted(set(blamed))) or "no record",
        ),
        Check(
            "no broken tool call got through",
            readable,
            f"{sum(len(t.calls) for t in runs.planted.turns)} calls",
        ),
        Check(
            "the agent repaired the bug all the same",
            runs.planted.tests_green is True,
            f"{len(runs.planted.turns)} turns",
        ),
        Check("the fault changed no token", healed.same and healed.by_tokens, str(healed)),
    ]


def count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def is_readable(calls: Sequence[Any]) -> bool:
    """Whether all arguments parse as objects."""
    try:
        for call in calls:
            call.parsed()
    except ValueError:
        return False
    return True


def tally(transcript: Transcript) -> str:
    """One line of numbers about a run."""
    milliseconds = sum(float(turn.timings.get("predicted_ms", 0)) for turn in transcript.turns)
    drafted, accepted = sum(t.drafted for t in transcript.turns), sum(t.accepted for t in transcript.turns)
    parts = [f"{len(transcript.turns)} turns", f"{transcript.tokens} tokens", f"{transcript.seconds:.1f} s"]
    if milliseconds:
        parts.append(f"{1000 * transcript.tokens / milliseconds:.0f} tokens/s")
    if drafted:
        parts.append(f"{accepted / drafted:.0%} of {drafted} drafted tokens accepted")
    return ", ".join(parts)
