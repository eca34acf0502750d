"""All numbers of the drift detectors, with units and reasons.

Must not: hold anything that is measured at run time.
Invariant: a `DriftSettings` that exists is usable: what cannot work is refused when it is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

MOST_KEPT = 1 << 12
"""Steps of a stream, or calls of a bucket, which are all looked at again with each new one."""


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """What an engine that is at fault shows in its own numbers.

    Raises ValueError that names the field.
    """

    buckets: tuple[int, ...] = (4096, 16384, 65536)
    """Upper edges of context length, in tokens; what is longer falls in one more bucket. Decay with context is the
    model's own, so nothing is compared across buckets."""

    agreement: Mapping[str, float] = field(
        default_factory=lambda: MappingProxyType(
            {"full": 0.99, "k8v8": 0.968, "k8v4": 0.955, "k4v4": 0.955, "k4v2": 0.945, "k3v3": 0.945}
        )
    )
    """Share of positions at which decoding and a clean full-precision recomputation agree on the most likely token, by
    codec. `full` is recomputed to the same bits where the device is exact, so less than .99 is no rounding; 95.5 % is
    what 4-bit keys and values reach at 8k tokens (LLMKube 601)."""

    agreement_by_bucket: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """The same by codec and bucket (0 = the shortest), where it was measured."""

    agreement_drop: float = 0.10
    """How much lower counts as broken: .10 is a third of the way to the 32 % that a broken codec shows."""

    agreement_alpha: float = 1e-3
    agreement_beta: float = 0.05
    """Chance per test that a sound engine is convicted, and that a broken one is acquitted; the next test begins at
    once, so that only costs time."""

    divergence: Mapping[str, float] = field(
        default_factory=lambda: MappingProxyType(
            {"full": 0.001, "k8v8": 0.03, "k8v4": 0.04, "k4v4": 0.15, "k4v2": 0.5, "k3v3": 0.6}
        )
    )
    """Upper bound of a sound codec's mean KL from a clean recomputation, over the doubt of the clean distribution
    (detectors.drift.divergence), nats, by codec: three times the most that the embedded model shows on any kind of text
    (.0002, .009, .056, .16, .21), or what is published at 8k tokens (KL .0067, .0117, .0148 for 8, 4 and 3 bits,
    LLMKube 601, at a doubt of about .3), if that is more."""

    divergence_by_bucket: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """The same by codec and bucket, where it was measured."""

    divergence_samples: float = 1e6
    """Mean samples between two false convictions, a bound and no estimate; there is at most one sample per token."""

    cosines: Mapping[int, float] = field(
        default_factory=lambda: MappingProxyType({2: 0.85, 3: 0.95, 4: 0.98, 8: 0.998})
    )
    entropies: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({2: 1.5, 4: 3.0}))
    """Least mean cosine of coded vectors and least bits per code, by bits per coordinate; below them the rotation has
    failed, or the model's vectors are such that it cannot help."""

    coded_vectors: int = 128
    """So many must be seen."""

    calibration_tokens: float = 1e7
    """Mean tokens between two false convictions of each calibration test: proven, not estimated, so that all three
    together stay below one in 10^6 tokens."""

    sharpening: float = 0.5
    """Assumed drift as a share of the largest likely one; .5 loses little against a full one and still sees a fault in
    half of the steps."""

    odds: float = 3.0
    """By how much the odds of acceptance are assumed to change."""

    collapse_tokens: int = 8
    """Equal tokens at the very start; a wrong verdict needs as many certain, equal tokens there."""

    collapse_top1: float = 0.999
    collapse_entropy: float = 0.02
    """Probability that counts as certain, and the nats that go with it at most."""

    saturation_drafts: int = 64
    saturation_acceptance: float = 0.97
    saturation_entropy: float = 0.05
    """Steps looked at, share of accepted first drafts in them, mean entropy in nats. Loops saturate, but so does a file
    that is written again: it never convicts."""

    dead_drafts: int = 50
    """Drafted tokens in a row of which none is accepted."""

    validity_baseline: float = 0.97
    validity_drop: float = 0.10
    """Share of valid tool calls expected, and how much lower is meant."""

    validity_certainty: float = 0.99
    """Posterior probability needed."""

    validity_calls: int = 200
    """Newest calls of a bucket that count."""

    def __post_init__(self) -> None:
        if any(edge < 1 for edge in self.buckets) or list(self.buckets) != sorted(set(self.buckets)):
            raise ValueError(f"buckets: must be rising token counts above 0, not {self.buckets}")
        for name in (
            "agreement_drop agreement_alpha agreement_beta sharpening collapse_top1 saturation_acceptance "
            "validity_baseline validity_drop validity_certainty"
        ).split():
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}: must be between 0 and 1, both excluded, not {getattr(self, name)}")
        for key, rate in [*self.agreement.items(), *_flat(self.agreement_by_bucket)]:
            if not self.agreement_drop < rate < 1:
                raise ValueError(f"agreement: {key} must be above agreement_drop and below 1, not {rate}")
        if self.agreement_alpha + self.agreement_beta >= 1:
            raise ValueError("agreement_alpha: together with agreement_beta it must be below 1")
        for key, mean in [*self.divergence.items(), *_flat(self.divergence_by_bucket)]:
            if not 0 < mean < math.inf:
                raise ValueError(f"divergence: {key} must be a number of nats above 0, not {mean}")
        for bits, least in self.cosines.items():
            if not 0 < least < 1:
                raise ValueError(f"cosines: of {bits} bits must be between 0 and 1, both excluded, not {least}")
        for bits, least in self.entropies.items():
            if not 0 < least < bits:
                raise ValueError(f"entropies: of {bits} bits must be between 0 and {bits}, both excluded, not {least}")
        if self.validity_drop >= self.validity_baseline:
            raise ValueError(f"validity_drop: must be below validity_baseline, not {self.validity_drop}")
        for name in ("calibration_tokens", "odds", "divergence_samples"):
            if not getattr(self, name) > 1:
                raise ValueError(f"{name}: must be above 1, not {getattr(self, name)}")
        for name in ("collapse_tokens", "saturation_drafts", "dead_drafts", "validity_calls", "coded_vectors"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name}: must be at least 2, not {getattr(self, name)}")
        for name in ("saturation_drafts", "validity_calls"):
            if getattr(self, name) > MOST_KEPT:
                raise ValueError(f"{name}: must be {MOST_KEPT} or less, they are kept; not {getattr(self, name)}")
        for name in ("agreement_by_bucket", "divergence_by_bucket"):
            for codec, by in getattr(self, name).items():
                if codec not in self.agreement or not set(by) <= set(range(len(self.buckets) + 1)):
                    raise ValueError(
                        f"{name}: nobody reads {codec} {dict(by)}; codecs: {', '.join(self.agreement)}, buckets 0 to "
                        f"{len(self.buckets)}"
                    )
        if unlike := self.agreement.keys() ^ self.divergence.keys():
            raise ValueError(f"agreement, divergence: both or none of them must be told of {', '.join(sorted(unlike))}")
        for name in ("collapse_entropy", "saturation_entropy"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must not be negative, not {getattr(self, name)}")

    def bucket(self, context: int) -> int:
        """Index of the bucket of a context length in tokens."""
        return next((i for i, edge in enumerate(self.buckets) if context <= edge), len(self.buckets))

    def agreement_of(self, codec: str, bucket: int) -> float:
        """Expected agreement; of an unknown codec, the lowest of the known ones."""
        known = self.agreement_by_bucket.get(codec, {}).get(bucket, self.agreement.get(codec))
        return min(self.agreement.values()) if known is None else known

    def divergence_of(self, codec: str, bucket: int) -> float:
        """Most that the mean KL may be; of an unknown codec, the highest of the known ones."""
        known = self.divergence_by_bucket.get(codec, {}).get(bucket, self.divergence.get(codec))
        return max(self.divergence.values()) if known is None else known


def _flat(measured: Mapping[str, Mapping[int, float]]) -> list[tuple[str, float]]:
    """By codec alone, as an error names it."""
    return [(f"{codec} in bucket {bucket}", value) for codec, by in measured.items() for bucket, value in by.items()]


DEFAULT = DriftSettings()
