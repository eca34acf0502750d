"""Shadow divergence: is what decoding predicts as near to a clean recomputation as this codec should be?

Must not: mix codecs or context lengths, or learn a baseline from the responses that it judges (a slow decay would be
learned with it).
Invariant: while the mean x of a sound codec, given all that was before, is at most the baseline m, each pair convicts
within n samples with a probability of at most n / `divergence_samples`, however heavy the tails.

The most likely token hardly ever changes where a model is certain, so agreement alone (detectors.drift.sprt) needs many
samples; the divergence KL(clean, other) moves at every one. How much it moves is up to the text: noise of variance s^2
on every logit costs s^2 / 2 times the doubt 1 - sum p^2 (to second order), so what is judged is x = KL / doubt, which
is about s^2 / 2 on any text. For 0 < b < 1 and any clip c
    e = 1 + b (min(x, c) / m - 1)
is positive and has a mean of at most 1: a bet against the codec that does not pay while it is sound (betting e-values,
Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", 2024). Two stakes b, one for faults
that show everywhere and one for those that show seldom, each combined by Shiryaev-Roberts
(detectors.drift.calibration).
Where m comes from: noise grows with the codec's distortion; see `DriftSettings.divergence`.
"""

from __future__ import annotations

from detectors.drift.calibration import ChangeTest
from detectors.drift.settings import DEFAULT, DriftSettings
from detectors.finding import Finding, Grade

STAKES = (0.3, 0.05)
CLIP = 50.0
"""In baselines; what is no number counts as much."""
LEAST_DOUBT = 0.02
"""Where the model is certain, rounding would be divided by next to nothing."""


def bet(x: float, baseline: float, stake: float) -> float:
    """e-value of one sample against `the mean is at most the baseline`. x, baseline: nats."""
    ratio = x / baseline
    return 1 + stake * ((ratio if ratio < CLIP else CLIP) - 1)


class ShadowDivergence:
    """One test per (codec, context bucket); lives as long as the process, as `ShadowAgreement` does."""

    def __init__(self, settings: DriftSettings = DEFAULT) -> None:
        self._settings = settings
        self._tests: dict[tuple[str, int], tuple[ChangeTest, ...]] = {}

    def feed(self, position: int, codec: str, context: int, kl: float, doubt: float = 1.0) -> Finding | None:
        """Takes one sample. context: committed tokens; kl: nats; doubt: 1 - sum p^2 of the clean distribution. A
        conviction puts the whole response in doubt."""
        s = self._settings
        bucket = s.bucket(context)
        tests = self._tests.get((codec, bucket))
        if tests is None:
            tests = tuple(ChangeTest(s.divergence_samples * len(STAKES)) for _ in STAKES)
            self._tests[codec, bucket] = tests
        baseline, samples = s.divergence_of(codec, bucket), tests[0].steps + 1
        x = kl / max(doubt, LEAST_DOUBT)
        convicted = [test.feed(position, bet(x, baseline, b)) for test, b in zip(tests, STAKES, strict=True)]
        if all(began is None for began in convicted):
            return None
        del self._tests[codec, bucket]
        evidence = {
            "codec": codec,
            "bucket": bucket,
            "samples": samples,
            "kl": kl,
            "doubt": doubt,
            "baseline": baseline,
        }
        reason = "decoding diverges from a clean recomputation"
        return Finding("drift.shadow", Grade.FALLBACK, "engine", position, 0, reason, evidence)
