"""How the rows of a sequence came to be: prefilled or decoded, and by which cold start.

Must not: know states or caches; whoever computes rows records it here.
Invariant: segments follow each other without a gap from position 0 on; decoded runs are one segment, prefilled chunks
stay apart, so a rebuild can follow the edges that they were computed in.
"""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from typing import Literal

import torch

Kind = Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Positions [start, end) of the state, all computed in one way."""

    kind: Kind
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Lineage:
    """Of all sequences whose first rows were computed by one cold start. sound: a rebuild has not refused them."""

    sound: bool = True


def record(provenance: list[Segment], kind: Kind, start: int, end: int) -> None:
    """Positions [start, end) were computed, behind all that is recorded."""
    last = provenance[-1] if provenance else None
    if last is not None and last.kind == kind == "decode" and last.end == start:
        provenance[-1] = Segment(kind, last.start, end)
    else:
        provenance.append(Segment(kind, start, end))


def shortened(provenance: Tokens[Segment], length: int) -> list[Segment]:
    """What is left of it in the first `length` positions."""
    return [Segment(s.kind, s.start, min(s.end, length)) for s in provenance if s.start < length]


def prefilled(provenance: Tokens[Segment]) -> int:
    """Positions from 0 on that were prefilled, none of them decoded."""
    end = provenance[-1].end if provenance else 0
    return next((s.start for s in provenance if s.kind == "decode"), end)


def common_prefix(left: Tokens[int], right: Tokens[int]) -> int:
    """Length of the longest common prefix of two token lists."""
    size = min(len(left), len(right))
    a, b = list(left[:size]), list(right[:size])
    if a == b:  # much faster than the comparison below, and the usual case
        return size
    return int((torch.tensor(a) != torch.tensor(b)).nonzero()[0].item())
