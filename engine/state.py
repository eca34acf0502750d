"""The state of one sequence: KV caches, DeltaNet memories, the cursor, and what a rewind needs.

Must not: know tokens. Invariant: `length` positions are committed; what lies behind the cursor is garbage that nothing
reads. Attention rewinds by moving the cursor (and zeroing what lay behind it), DeltaNet by restoring a checkpoint and
folding logged ingredients.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.deltanet import DeltaNet, Ingredients, LinearState
from engine.errors import RewindError
from engine.kv import KVCache

MAX_CHECKPOINTS = 8
MAX_LOG = 1024
"""Most committed rows whose ingredients are kept; at least the newest half of as many stay restorable one by one."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Copies of the DeltaNet states at a position."""

    position: int
    linear: tuple[LinearState, ...]


@dataclass(slots=True)
class SequenceState:
    """Made by `Model.new_state`. kv: one cache per full-attention layer; linear: one state per linear layer; mtp: the
    drafting head's cache, not part of the fingerprint because it cannot change the output."""

    kv: list[KVCache]
    linear: list[LinearState]
    layers: list[DeltaNet]
    mtp: KVCache | None = None
    length: int = 0
    checkpoints: list[Checkpoint] = field(default_factory=list)
    log_start: int = 0
    log: list[tuple[Ingredients, ...]] = field(default_factory=list)
    provisional: tuple[Ingredients, ...] | None = None
    """Ingredients per linear layer of the last decode's rows; None when nothing is provisional."""
    provisional_rows: int = 0

    def __post_init__(self) -> None:
        if not self.checkpoints:
            self.checkpoint()

    @property
    def nbytes(self) -> int:
        """Bytes of caches, memories, checkpoints and log."""
        caches = sum(c.nbytes for c in self.kv) + (self.mtp.nbytes if self.mtp else 0)
        memories = [s for c in self.checkpoints for s in c.linear] + self.linear
        logged = [t for rows in self.log for part in rows for t in (part.conv, part.k, part.u, part.decay)]
        tensors = [t for s in memories for t in (s.memory, s.conv)] + logged
        return caches + sum(t.numel() * t.element_size() for t in tensors)

    def checkpoint(self) -> None:
        """Keeps a copy of the DeltaNet states at the present position; the first and the newest ones stay."""
        self.checkpoints = [c for c in self.checkpoints if c.position < self.length]
        self.checkpoints.append(Checkpoint(self.length, tuple(s.clone() for s in self.linear)))
        if len(self.checkpoints) > MAX_CHECKPOINTS:
            del self.checkpoints[1]

    def commit(self, count: int) -> None:
        """Makes the first `count` provisional rows part of the state. Raises ValueError if there are not so many."""
        parts = self.provisional
        rows = self.provisional_rows
        if parts is None or not 0 <= count <= rows:
            raise ValueError(f"cannot commit {count} rows: {0 if parts is None else rows} are provisional")
        accepted = tuple(part.rows(0, count) for part in parts)
        for layer, state, part in zip(self.layers, self.linear, accepted, strict=True):
            layer.fold(state, part)
        for row in range(count):
            self.log.append(tuple(part.rows(row, row + 1) for part in accepted))
        self.length += count
        self.provisional = None
        self._shorten_log()

    def skip_log(self, count: int) -> None:
        """`count` rows were prefilled: they advance the cursor and leave no ingredients."""
        self.length += count
        self.log = []
        self.log_start = self.length
        self.provisional = None

    def nearest(self, position: int) -> int:
        """The highest position not above `position` that `rewind` can restore."""
        if position >= self.length:
            return self.length
        return max(self._reach(c, position) for c in self.checkpoints if c.position <= position)

    def rewind(self, position: int) -> None:
        """Makes the state hold exactly `position` committed rows. Raises RewindError if that is not restorable."""
        nearest = self.nearest(position)
        if nearest != position:
            raise RewindError(position, nearest)
        self.provisional = None
        if position == self.length:
            return
        kept = max(
            (c for c in self.checkpoints if c.position <= position and self._reach(c, position) == position),
            key=lambda c: c.position,
        )
        self.linear = [s.clone() for s in kept.linear]
        rows = self.log[kept.position - self.log_start : position - self.log_start] if position > kept.position else []
        for row in rows:
            for layer, state, part in zip(self.layers, self.linear, row, strict=True):
                layer.fold(state, part)
        self.checkpoints = [c for c in self.checkpoints if c.position <= position]
        for cache in (*self.kv, *((self.mtp,) if self.mtp else ())):
            cache.truncate(position)
        del self.log[max(position - self.log_start, 0) :]
        self.log_start = min(self.log_start, position)
        self.length = position

    def clone(self) -> SequenceState:
        """An independent copy of the committed state without history: it can be decoded on, not rewound far."""
        return SequenceState(
            kv=[c.clone() for c in self.kv],
            linear=[s.clone() for s in self.linear],
            layers=self.layers,
            mtp=self.mtp.clone() if self.mtp else None,
            length=self.length,
            log_start=self.length,
        )

    def fingerprint(self) -> str:
        """SHA-256 over the bits of everything committed that can influence the output."""
        digest = hashlib.sha256(str(self.length).encode())
        tensors: list[Tensor] = [t for cache in self.kv for t in cache.committed(self.length)]
        tensors += [t for s in self.linear for t in (s.memory, s.conv)]
        for tensor in tensors:
            digest.update(tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes())
        return digest.hexdigest()

    def _shorten_log(self) -> None:
        """Drops rows that only lead away from old checkpoints; makes checkpoints so that this is possible."""
        half = MAX_LOG // 2
        if self.length - self.checkpoints[-1].position >= half:
            self.checkpoint()
        if len(self.log) > MAX_LOG:
            base = max((c.position for c in self.checkpoints if c.position <= self.length - half), default=0)
            drop = max(base - self.log_start, 0)
            del self.log[:drop]
            self.log_start += drop

    def _reach(self, checkpoint: Checkpoint, position: int) -> int:
        """How far towards `position` the log leads from a checkpoint. Attention alone needs no log."""
        if not self.layers:
            return position
        if self.log_start <= checkpoint.position:
            return min(position, self.log_start + len(self.log))
        return checkpoint.position
