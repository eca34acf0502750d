"""The compressed KV cache, judged by what its own checks report: written wrongly, changed since, read wrongly, coded
badly.

Must not: judge how a text fares; that is what clean recomputations are for.
Invariant: a fault that the engine reports is a comparison of facts and convicts at once; of the rest, only numbers
that no sound codec has, whatever the model: see `DriftSettings.cosines` and `entropies`.

A rotated vector's coordinates are close to Gaussian, so the mean cosine between a vector and its code is 1 minus the
codebook's distortion (.991, .967, .885 at 4, 3, 2 bits; Zandieh et al. 2504.19874, table of exact values in
engine.codecs.lloyd_max), and codes are spread as a Gaussian spreads them (3.77 and 1.91 bits at 4 and 2).
"""

from __future__ import annotations

from typing import Protocol

from detectors.drift.settings import DEFAULT, DriftSettings
from detectors.finding import Finding, Grade


class FaultNumbers(Protocol):
    """check: `finite`, `read-back`, `seal` or `reading`; row: first position of the context that it concerns."""

    @property
    def check(self) -> str: ...
    @property
    def layer(self) -> int: ...
    @property
    def side(self) -> str: ...
    @property
    def row(self) -> int: ...
    @property
    def measured(self) -> float: ...
    @property
    def limit(self) -> float: ...


class CodingNumbers(Protocol):
    """One side of the worst layer."""

    @property
    def bits(self) -> int: ...
    @property
    def vectors(self) -> int: ...
    @property
    def cosine(self) -> float: ...
    @property
    def entropy(self) -> float | None: ...


class CacheNumbers(Protocol):
    """Of one step."""

    @property
    def faults(self) -> tuple[FaultNumbers, ...]: ...
    @property
    def keys(self) -> CodingNumbers | None: ...
    @property
    def values(self) -> CodingNumbers | None: ...
    @property
    def sigma(self) -> float | None: ...


REASONS = {
    "finite": "coded vectors are not finite",
    "read-back": "stored codes do not give back what was written",
    "seal": "stored codes have changed",
    "reading": "attention is not what the codes say",
}

PROOFS = frozenset(REASONS)
"""Checks in a finding's evidence that leave no doubt that the cache is at fault."""


class CacheHealth:
    """Of one response in one mode; speaks about a thing once."""

    def __init__(self, codec: str, settings: DriftSettings = DEFAULT) -> None:
        self._codec, self._settings = codec, settings
        self._told: set[str] = set()

    def feed(self, position: int, cache: CacheNumbers) -> Finding | None:
        """Takes a step's numbers. position: first token of the step.

        All of the response is in doubt: the cache may have been bad before it began.
        """
        for fault in cache.faults:
            reason = REASONS.get(fault.check, "the cache is not what it should be")
            where = {"layer": fault.layer, "side": fault.side, "row": fault.row}
            numbers = {"measured": fault.measured, "limit": fault.limit, "faults": len(cache.faults)}
            found = self._finding(fault.check, position, reason, {**where, **numbers})
            if found is not None:
                return found
        for side, coding in (("keys", cache.keys), ("values", cache.values)):
            if coding is None or coding.vectors < self._settings.coded_vectors:
                continue
            evidence = {"side": side, "bits": coding.bits, "vectors": coding.vectors, "sigma": cache.sigma}
            least = self._settings.cosines.get(coding.bits, 0.0)
            if not coding.cosine >= least:
                numbers = {"measured": coding.cosine, "limit": least}
                return self._finding(f"{side} cosine", position, "vectors are coded badly", {**evidence, **numbers})
            least = self._settings.entropies.get(coding.bits, 0.0)
            if coding.entropy is not None and not coding.entropy >= least:
                numbers = {"measured": coding.entropy, "limit": least}
                return self._finding(f"{side} entropy", position, "codes use few levels", {**evidence, **numbers})
        return None

    def _finding(self, what: str, position: int, reason: str, evidence: dict[str, object]) -> Finding | None:
        if what in self._told:
            return None
        self._told.add(what)
        evidence = {"check": what, "codec": self._codec, **evidence}
        return Finding("drift.kv", Grade.FALLBACK, "engine", position, 0, reason, evidence)
