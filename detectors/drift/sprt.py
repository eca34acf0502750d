"""Shadow agreement: does decoding still choose as a clean recomputation does? Wald's sequential probability ratio test.

Must not: mix codecs or context lengths; each pair has its own baseline and its own test.
Invariant: a test that is decided starts again from nothing, so an old acquittal never protects a later fault.

Both sides judge the same position after the same tokens, so what the text is like cancels out: hard text lowers the
agreement of a sound engine a little (that is in the baseline), it does not make samples depend on each other.
With A = ln((1 - beta) / alpha) and B = ln(beta / (1 - alpha)), the log-likelihood ratio of q1 = q0 - drop against q0
is summed; above A it convicts, below B it acquits (A. Wald, "Sequential Tests of Statistical Hypotheses", 1945).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from detectors.drift.settings import DEFAULT, DriftSettings
from detectors.finding import Finding, Grade


@dataclass(frozen=True, slots=True)
class Conviction:
    """samples, disagreements: of the test that convicted; position: of its first sample."""

    samples: int
    disagreements: int
    first: int


class AgreementTest:
    """q0: agreement of a sound engine; q1 < q0: of a broken one. Both strictly between 0 and 1."""

    def __init__(self, q0: float, q1: float, alpha: float, beta: float) -> None:
        if not 0 < q1 < q0 < 1:
            raise ValueError(f"q1: must be between 0 and q0 = {q0}, not {q1}")
        self._agree, self._differ = math.log(q1 / q0), math.log((1 - q1) / (1 - q0))
        self._convict, self._acquit = math.log((1 - beta) / alpha), math.log(beta / (1 - alpha))
        self.acquittals = 0
        self.evidence, self.samples, self.disagreements, self._first = 0.0, 0, 0, 0

    def feed(self, position: int, agrees: bool) -> Conviction | None:
        """Takes one sampled position."""
        self._first = position if self.samples == 0 else self._first
        self.samples += 1
        self.disagreements += not agrees
        self.evidence += self._agree if agrees else self._differ
        if self.evidence >= self._convict:
            conviction = Conviction(self.samples, self.disagreements, self._first)
            self._restart()
            return conviction
        if self.evidence <= self._acquit:
            self.acquittals += 1
            self._restart()
        return None

    def _restart(self) -> None:
        self.evidence, self.samples, self.disagreements, self._first = 0.0, 0, 0, 0


class ShadowAgreement:
    """One test per (codec, context bucket). Lives as long as the process: one response rarely has enough samples."""

    def __init__(self, settings: DriftSettings = DEFAULT) -> None:
        self._settings = settings
        self._tests: dict[tuple[str, int], AgreementTest] = {}

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._tests)

    def feed(self, position: int, codec: str, context: int, agrees: bool) -> Finding | None:
        """Takes one sample. context: committed tokens. The whole response is in doubt when a test convicts: what is
        damaged may have been so before it began."""
        bucket = self._settings.bucket(context)
        conviction = self._test(codec, bucket).feed(position, agrees)
        if conviction is None:
            return None
        return Finding(
            detector="drift.shadow",
            grade=Grade.FALLBACK,
            channel="engine",
            position=position,
            began=0,
            reason="decoding disagrees with a clean recomputation",
            evidence={
                "codec": codec,
                "bucket": bucket,
                "samples": conviction.samples,
                "disagreements": conviction.disagreements,
                "baseline": self._settings.agreement_of(codec, bucket),
            },
        )

    def _test(self, codec: str, bucket: int) -> AgreementTest:
        test = self._tests.get((codec, bucket))
        if test is None:
            s, q0 = self._settings, self._settings.agreement_of(codec, bucket)
            test = AgreementTest(q0, q0 - s.agreement_drop, s.agreement_alpha, s.agreement_beta)
            self._tests[codec, bucket] = test
        return test
