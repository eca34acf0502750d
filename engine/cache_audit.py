"""The audit of a sequence's compressed caches, a little in every step: written right, still so, read right.

Three checks, each a comparison of facts: new codes are read back at once (engine.read_back); every stored code is
compared with its seal about every CYCLE steps (engine.seals); the attention of one layer and key head is computed
a second time now and then (engine.reading).

Must not: change what a step computes, or judge how much noise is tolerable.
Invariant: only committed rows are judged, and a sound cache gives no fault, whatever the text.
Cost, measured on one core with the embedded model at 400 and 3,800 tokens: 1.3 to 2.0 % of decode time, 3 to 5 % of a
prompt's. It grows with the number of layers, hardly with their size.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from engine.audit import Auditor
from engine.compressed import CompressedCache
from engine.health import LayerHealth, SideHealth
from engine.kv import TILE
from engine.model import Model
from engine.read_back import HEAD_OFF, VECTOR_OFF
from engine.reading import READING_OFF, Probe
from engine.reports import CacheFault, CacheReport, CodingReport, Side
from engine.seals import broken
from engine.state import SequenceState

CYCLE, SEALS_EVERY = 64, 4
"""Steps within which all seals are compared, and between two comparisons; each is of a tile at least."""
EVERY = 32
"""Steps between two second readings; single rows and blocks are counted apart, as kernels for them may differ."""
SIDES: tuple[Side, Side] = ("keys", "values")
FIRST = 3
"""Of the first steps of a turn with a single row, so many are read again."""


class CacheAudit:
    """Of one turn."""

    def __init__(self) -> None:
        self._steps = {True: 0, False: 0}
        self._looks = self._seals = self._readings = 0
        self._armed: tuple[int, CompressedCache, Probe] | None = None

    def arm(self, caches: Sequence[object], *, alone: bool) -> None:
        """Before a step. alone: of a single row."""
        self._disarm()
        coded = _coded(caches)
        count = self._steps[alone]
        self._steps[alone] += 1
        if not coded or not (count % EVERY == 0 or (alone and count < FIRST)):
            return
        layer, cache = coded[self._readings % len(coded)]
        probe = Probe(self._readings // len(coded) % cache.heads)
        self._readings += 1
        cache.probe = probe.see
        self._armed = layer, cache, probe

    def look(self, caches: Sequence[object], position: int) -> CacheReport | None:
        """After the forward. position: of the step's first row, where the caches' committed rows end."""
        started, armed = time.perf_counter(), self._armed
        self._disarm()
        coded = _coded(caches)
        if not coded:
            return None
        faults, rows, health = _written(coded)
        seals, tiles = self._compare_seals(coded)
        faults += seals
        if armed is not None:
            faults += _misread(armed[0], armed[2], position)
        return CacheReport(
            faults=tuple(faults),
            rows=rows,
            tiles=tiles,
            probed=int(armed is not None),
            keys=_worst([layer.keys for layer in health]),
            values=_worst([layer.values for layer in health]),
            sigma=max((layer.sigma for layer in health if layer.sigma is not None), default=None),
            milliseconds=(time.perf_counter() - started) * 1e3,
        )

    def _compare_seals(self, coded: list[tuple[int, CompressedCache]]) -> tuple[list[CacheFault], int]:
        """A few tiles, in turn; how many."""
        self._looks += 1
        if self._looks % SEALS_EVERY != 1:
            return [], 0
        tiles = [(layer, cache, -(-cache.coded // TILE)) for layer, cache in coded]
        total = sum(count for _, _, count in tiles)
        if not total:
            return [], 0
        start = self._seals % total
        wanted = -(-total * SEALS_EVERY // CYCLE)
        for layer, cache, count in tiles:
            if start >= count:
                start -= count
                continue
            end = min(start + wanted, count)
            self._seals += end - start
            found = broken(cache.codes, cache.seals, start, end, cache.coded)
            if not bool(found.any()):
                return [], end - start
            tile, _, block = found.nonzero()[0].tolist()
            row = (start + tile) * TILE + block * (TILE // found.shape[-1])
            return [CacheFault("seal", layer, "both", row, float(found.sum()), 0.0)], end - start
        raise AssertionError("unreachable: start lies below the total")

    def _disarm(self) -> None:
        if self._armed is not None:
            self._armed[1].probe = None
            self._armed = None


@torch.inference_mode()
def misread(model: Model, state: SequenceState, tokens: Sequence[int], position: int) -> list[CacheFault]:
    """Whether single rows read the caches wrongly: decodes `tokens` one by one on a copy, and reads the last again in
    all layers and heads. position: of the last."""
    copy = state.clone()
    for token in tokens[:-1]:
        model.decode(copy, [token])
        model.commit(copy, 1)
    probes = [(layer, cache, Probe()) for layer, cache in _coded(copy.kv)]
    for _, cache, probe in probes:
        cache.probe = probe.see
    model.decode(copy, tokens[-1:])
    return [fault for layer, _, probe in probes for fault in _misread(layer, probe, position)]


def judged(
    cache: CacheReport | None, auditor: Auditor, model: Model, state: SequenceState, block: Sequence[int]
) -> CacheReport | None:
    """The report before a step of `block` is committed. Where a block and its rows alone differ, and codes are read,
    either may be at fault: a second reading of the single row decides who is accused, speculation or the cache."""
    at = auditor.mismatch
    if cache is None or at is None:
        return cache
    found = misread(model, state, block[: at + 1], state.length + at)
    if found:
        auditor.withdraw()
        return replace(cache, faults=(*cache.faults, *found))
    return replace(cache, faults=tuple(fault for fault in cache.faults if fault.check != "reading"))


def _coded(caches: Sequence[object]) -> list[tuple[int, CompressedCache]]:
    return [(layer, cache) for layer, cache in enumerate(caches) if isinstance(cache, CompressedCache)]


def _written(coded: list[tuple[int, CompressedCache]]) -> tuple[list[CacheFault], int, list[LayerHealth]]:
    """What the newly coded rows of all layers show, how many there are, and the health of their layers."""
    new = [(layer, row, found) for layer, cache in coded for row, _, found in cache.unread]
    if not new:
        return [], 0, []
    faults: list[CacheFault] = []
    numbers = torch.stack([found for *_, found in new]).tolist()  # waits for the device, once
    for (layer, row, _), sides in zip(new, numbers, strict=True):
        for side, (head, vector) in zip(SIDES, sides, strict=True):
            for measured, limit in ((head, HEAD_OFF), (vector, VECTOR_OFF)):
                if not measured <= limit:
                    faults.append(CacheFault("read-back", layer, side, row, measured, limit))
                    break
    health, rows = [], 0
    for layer, cache in coded:
        if cache.unread:
            rows = max(rows, sum(count for _, count, _ in cache.unread))
            health.append(cache.tally.health(layer, cache.codec, cache.layout.dim))
            for side, found in zip(SIDES, (health[-1].keys, health[-1].values), strict=True):
                if found.broken:
                    faults.append(CacheFault("finite", layer, side, cache.unread[0][0], found.broken, 0.0))
        cache.unread = []
    return faults, rows, health


def _misread(layer: int, probe: Probe, position: int) -> list[CacheFault]:
    off = float("nan") if probe.off is None else float(probe.off)
    return [] if off <= READING_OFF else [CacheFault("reading", layer, "both", position, off, READING_OFF)]


def _worst(sides: list[SideHealth]) -> CodingReport | None:
    known = [side for side in sides if side.vectors]
    if not known:
        return None
    entropy = min((side.entropy for side in known if side.entropy is not None), default=None)
    worst = min(known, key=lambda side: side.cosine)
    return CodingReport(worst.bits, worst.vectors, worst.cosine, entropy)
