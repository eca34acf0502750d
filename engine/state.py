"""The state of one sequence: KV caches, DeltaNet memories, the cursor, and what a rewind needs.

Must not: know tokens. Invariant: `length` positions are committed; what lies behind the cursor is garbage that nothing
reads. Attention rewinds by moving the cursor (and zeroing what lay behind it), DeltaNet by restoring a checkpoint and
folding logged ingredients.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.codecs.spec import FLUSH, FULL
from engine.compressed import Cache, CompressedCache
from engine.deltanet import Ingredients, LinearState
from engine.errors import RewindError
from engine.health import LayerHealth
from engine.kv import KVCache
from engine.shadow import Shadow

MAX_CHECKPOINTS = 8
"""Most checkpoints of a sequence, pinned ones included: each holds all DeltaNet memories (151 MB at Qwen3.6-27B)."""
MAX_LOG = 1024
"""Most committed rows whose ingredients are kept; at least the newest half of as many stay restorable one by one."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Copies of the DeltaNet states at a position."""

    position: int
    linear: LinearState


@dataclass(slots=True)
class SequenceState:
    """Made by `Model.new_state`. kv: one cache per full-attention layer; linear: of all linear layers; mtp: the
    drafting head's cache, not part of the fingerprint because it cannot change the output."""

    kv: list[Cache]
    linear: LinearState
    mtp: KVCache | None = None
    header: str = FULL
    """By which rules the caches in `kv` were written; see engine.codecs.spec."""
    length: int = 0
    checkpoints: list[Checkpoint] = field(default_factory=list)
    log_start: int = 0
    log: list[Ingredients] = field(default_factory=list)
    provisional: Ingredients | None = None
    """Of the last decode's rows; None where no layer is linear, or nothing is provisional."""
    provisional_rows: int = 0
    """Rows of the last decode that may be committed."""
    rejected: int = 0
    """Rows of the last step that were not committed; what they left behind the cursor is still there."""
    shadow: Shadow | None = None
    """The prompt's rows in full precision, for level L2."""
    pins: frozenset[int] = frozenset()
    """Positions whose checkpoints are not thinned out: end of the tools, start of the turn."""

    def __post_init__(self) -> None:
        if not self.checkpoints:
            self.checkpoint()

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor that is alive because of this sequence; forks share some of them."""
        for cache in (*self.kv, *((self.mtp,) if self.mtp else ())):
            yield from cache.tensors()
        if self.shadow is not None:
            yield from self.shadow.tensors()
        for state in (*(c.linear for c in self.checkpoints), self.linear):
            yield state.memory
            yield state.conv
        for part in self.log:
            yield from (part.conv, part.k, part.u, part.decay)

    @property
    def nbytes(self) -> int:
        """Bytes of caches, memories, checkpoints and log."""
        return live_bytes([self])

    def checkpoint(self) -> None:
        """Keeps a copy of the DeltaNet states at the present position."""
        self.keep(self.length, self.linear.clone())

    def keep(self, position: int, linear: LinearState) -> None:
        """Adds a checkpoint of `position`, not below the newest one's; the first, the newest and the pinned ones stay.

        Of the others, the one goes that is missed least: the gap that it leaves is small beside its distance from the
        end, so those that stay lie denser towards the end, where conversations diverge.
        """
        self.checkpoints = [c for c in self.checkpoints if c.position < position]
        self.checkpoints.append(Checkpoint(position, linear))
        while len(self.checkpoints) > MAX_CHECKPOINTS:
            at = [c.position for c in self.checkpoints]
            inner = [i for i in range(1, len(at) - 1) if at[i] not in self.pins] or [1]
            del self.checkpoints[min(inner, key=lambda i: (at[i + 1] - at[i - 1]) / (position - at[i - 1]))]

    @property
    def recurrent(self) -> bool:
        """Whether any layer is linear: such a state cannot be rewound by moving a cursor."""
        return self.linear.memory.shape[0] > 0

    def propose(self, parts: Ingredients | None, rows: int) -> None:
        """`rows` rows were computed and wait for `commit`; parts: their ingredients, if any layer is linear."""
        self.provisional, self.provisional_rows = parts, rows

    def commit(self, count: int) -> None:
        """Makes the first `count` provisional rows part of the state. Raises ValueError if there are not so many."""
        parts, rows = self.provisional, self.provisional_rows
        if not rows or not 0 <= count <= rows:
            raise ValueError(f"cannot commit {count} rows: {rows} are provisional")
        if parts is not None:
            self.linear.fold(parts.rows(0, count))
            # copies: a view would keep the whole forward alive, other sequences' rows included
            self.log += [parts.rows(row, row + 1).clone() for row in range(count)]
        self.length += count
        self.rejected = rows - count
        self._settle()
        self._forget_provisional()
        self._shorten_log()

    def skip_log(self, count: int) -> None:
        """`count` rows were prefilled: they advance the cursor and leave no ingredients."""
        self.length += count
        self.rejected = 0
        self._settle()
        self.log = []
        self.log_start = self.length
        self._forget_provisional()

    def health(self) -> list[LayerHealth]:
        """Of the compressed attention caches; waits for the device."""
        caches = ((i, c) for i, c in enumerate(self.kv) if isinstance(c, CompressedCache))
        return [cache.tally.health(index, cache.codec, cache.layout.dim) for index, cache in caches]

    @property
    def compressed(self) -> bool:
        """Whether any attention cache holds codes, or will."""
        return any(isinstance(cache, CompressedCache) for cache in self.kv)

    def compress(self, caches: list[Cache]) -> list[KVCache | None]:
        """Codes the committed rows of full caches: `caches` are new ones, full where a layer stays full.

        Returns the full caches that were replaced, None for layers that keep theirs.
        """
        replaced: list[KVCache | None] = []
        for index, cache in enumerate(caches):
            old = self.kv[index]
            if isinstance(cache, CompressedCache) and isinstance(old, KVCache):
                cache.take_over(old, self.length)
                self.kv[index] = cache
                replaced.append(old)
            else:
                replaced.append(None)
        return replaced

    def uncover(self, full: list[KVCache | None]) -> None:
        """Replaces compressed caches by full ones that hold rows from 0 on; `rewind` to where they end must follow."""
        self.kv = [old if cache is None else cache for old, cache in zip(self.kv, full, strict=True)]

    def stop_quantising(self) -> None:
        """Attention rows from here on are stored as computed; a prefix with such rows is of no codec."""
        for cache in self.kv:
            if isinstance(cache, CompressedCache):
                cache.freeze()
        self.header += f"/raw-from-{self.length // FLUSH * FLUSH}"

    def nearest(self, position: int) -> int:
        """The highest position not above `position` that `rewind` can restore."""
        if position >= self.length:
            return self.length
        if not self.recurrent:
            return self._kept_rows(position)
        reached = ((c.position, self._kept_rows(self._reach(c, position))) for c in self.checkpoints)
        return max((end for start, end in reached if start <= end <= position), default=0)

    def rewind(self, position: int) -> None:
        """Makes the state hold exactly `position` committed rows. Raises RewindError if that is not restorable."""
        nearest = self.nearest(position)
        if nearest != position:
            raise RewindError(position, nearest)
        self._forget_provisional()
        if position == self.length:
            return
        if self.recurrent:
            self._restore(position)
        self.checkpoints = [c for c in self.checkpoints if c.position <= position]
        for cache in (*self.kv, *((self.mtp,) if self.mtp else ())):
            cache.truncate(position)
        del self.log[max(position - self.log_start, 0) :]
        self.log_start = min(self.log_start, position)
        self.length = position
        self.rejected = 0

    def clone(self) -> SequenceState:
        """An independent copy of the committed state without history: it can be decoded on, not rewound far."""
        return SequenceState(
            kv=[c.clone() for c in self.kv],
            linear=self.linear.clone(),
            mtp=self.mtp.clone() if self.mtp else None,
            header=self.header,
            length=self.length,
            log_start=self.length,
        )

    def fork(self, position: int) -> SequenceState:
        """An independent state of the first `position` rows, as it was when they were all; checkpoints are shared.

        Raises RewindError unless there is a checkpoint at `position` or no layer needs one.
        """
        earlier = [c for c in self.checkpoints if c.position <= position]
        if self.recurrent and (not earlier or earlier[-1].position != position):
            raise RewindError(position, earlier[-1].position if earlier else 0)
        if self._kept_rows(position) != position:
            raise RewindError(position, self._kept_rows(position))
        return SequenceState(
            kv=[c.fork(position) for c in self.kv],
            linear=(earlier[-1] if self.recurrent else self).linear.clone(),
            mtp=self.mtp.fork(position) if self.mtp else None,
            header=self.header,
            shadow=self.shadow.fork(position) if self.shadow else None,
            length=position,
            checkpoints=earlier,
            log_start=position,
            pins=self.pins,
        )

    def fingerprint(self, head_slots: int = 0) -> str:
        """SHA-256 over the bits of everything committed that can influence the output, and of so many slots of the
        drafting head's cache, which cannot."""
        digest = hashlib.sha256(f"{self.header}:{self.length}".encode())
        tensors: list[Tensor] = [t for cache in self.kv for t in cache.committed(self.length)]
        for state in self.linear.layers():
            tensors += [state.memory, state.conv]
        if self.mtp is not None:
            tensors += self.mtp.committed(head_slots)
        for tensor in tensors:
            digest.update(tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes())
        return digest.hexdigest()

    def _restore(self, position: int) -> None:
        """DeltaNet states at a restorable position: the nearest checkpoint, and the logged rows from there."""
        kept = max(
            (c for c in self.checkpoints if c.position <= position and self._reach(c, position) == position),
            key=lambda c: c.position,
        )
        self.linear = kept.linear.clone()
        rows = self.log[kept.position - self.log_start : position - self.log_start] if position > kept.position else []
        for row in rows:
            self.linear.fold(row)

    def _settle(self) -> None:
        for cache in self.kv:
            cache.settle(self.length)

    def _kept_rows(self, position: int) -> int:
        """The highest position up to `position` that every attention cache can be cut back to."""
        return min((cache.restorable(position) for cache in self.kv), default=position)

    def _forget_provisional(self) -> None:
        self.provisional, self.provisional_rows = None, 0

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
        if not self.recurrent:
            return position
        if self.log_start <= checkpoint.position:
            return min(position, self.log_start + len(self.log))
        return checkpoint.position


def live_bytes(states: Iterable[SequenceState]) -> int:
    """Bytes of the tensors that these sequences keep alive; what forks share counts once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for s in states for t in s.tensors()}
    return sum(storages.values())
