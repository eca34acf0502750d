"""Lossless sampling, checked from its own numbers: are the tokens drawn from the distribution that is claimed?

Must not: look at how often drafts are accepted as such; content moves that by as much as any fault does.
Invariant: on tokens that are drawn as claimed, whatever the text, each test convicts within n tokens with a
probability of at most n / `calibration_tokens`.

Verification is equality with a token drawn by Gumbel-max, so each committed token c is drawn from a known p, and
    y = log p(c) + H(p)            (entropy minus negative log-likelihood)
has mean 0 and variance V = sum p (log p + H)^2, both known before the draw: a martingale difference whose law the
content decides and whose mean it cannot move. Accepting the most likely token at temperature 1, or verifying at a
lower temperature than is claimed, makes y positive on average. Because y <= H, Bennett's inequality bounds
    E exp(t y) <= exp(V (e^(tH) - 1 - tH) / H^2)       for any t >= 0 known before the draw,
so e = exp(t y - that bound) has a mean of at most 1. t is the best one for an assumed drift m: ln(1 + H m / V) / H.

A deterministic drafter (n-gram: its guess depends on the text alone, not on the noise) has its draft d accepted with
probability p(d). The likelihood ratio of other odds against that one has a mean of exactly 1. An MTP draft is made with
the same noise as the token, so its acceptance says nothing here and is not fed.

The e-values are combined by Shiryaev-Roberts, R <- (1 + R) e: R minus the number of steps is a supermartingale, so
P(R reaches A within n) <= n / A by Doob, and changes in mid-response are seen (Pollak 1985; Bennett 1962). Greedy
decoding draws nothing and has no p; it is not fed. Evidence is not pooled over responses: a client that repeats a
seed repeats the draws, and the same accident would be counted many times.
"""

from __future__ import annotations

import math

from detectors.drift.settings import DEFAULT, DriftSettings
from detectors.finding import Finding, Grade

_CERTAIN = 1e-6  # nats and nats^2 below which a draw can tell nothing


class ChangeTest:
    """Shiryaev-Roberts over e-values. limit: R at which it convicts."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self.total, self.steps, self._best, self._began = 0.0, 0, 1.0, 0

    def feed(self, position: int, e_value: float) -> int | None:
        """Takes one e-value; where the change began (the best guess), when it convicts."""
        self.steps += 1
        # the change point with the highest likelihood: where the running product was last below 1
        if self._best <= 1.0:
            self._best, self._began = 1.0, position
        self._best *= e_value
        self.total = (1.0 + self.total) * e_value
        if self.total < self._limit:
            return None
        began = self._began
        self._restart()
        return began

    def _restart(self) -> None:
        self.total, self.steps, self._best, self._began = 0.0, 0, 1.0, 0


def sharpness(logprob: float, entropy: float, variance: float, share: float) -> float:
    """e-value of one drawn token against `its distribution was sharpened`; 1 where nothing can be told.

    logprob: of the token under the distribution it is said to be drawn from, entropy of that one, variance of its
    log-probability (all nats); share: assumed drift in parts of the largest likely one.
    """
    if entropy < _CERTAIN or variance < _CERTAIN:
        return 1.0
    drift = share * min(math.sqrt(variance), entropy)
    tilt = math.log1p(entropy * drift / variance) / entropy
    bound = variance * (math.expm1(tilt * entropy) - tilt * entropy) / entropy**2
    return math.exp(tilt * (logprob + entropy) - bound)


def changed_odds(accepted: bool, expected: float, factor: float) -> float:
    """e-value of one judged draft against `its odds of acceptance are factor times what they should be`."""
    if expected <= 0 and accepted and factor > 1:
        return math.inf  # the filters left it out: no draw can have given it
    if not 0 < expected < 1:
        return 1.0
    norm = 1 - expected + factor * expected
    return factor / norm if accepted else 1 / norm


class Calibration:
    """The three tests of one response."""

    def __init__(self, settings: DriftSettings = DEFAULT) -> None:
        self._settings = settings
        self._sharp = ChangeTest(settings.calibration_tokens)
        self._more = ChangeTest(settings.calibration_tokens)
        self._fewer = ChangeTest(settings.calibration_tokens)

    def token(self, position: int, logprob: float, entropy: float, variance: float) -> Finding | None:
        """Takes a drawn token. Not for greedy decoding, nor where a constraint chose among the tokens."""
        began = self._sharp.feed(position, sharpness(logprob, entropy, variance, self._settings.sharpening))
        if began is None:
            return None
        return _finding("drift.sharpened", position, began, "tokens are likelier than draws would be")

    def draft(self, position: int, expected: float, accepted: bool) -> Finding | None:
        """Takes a judged draft of a deterministic drafter: every accepted one, and the first that was not."""
        odds = self._settings.odds
        began = self._more.feed(position, changed_odds(accepted, expected, odds))
        if began is not None:
            return _finding("drift.accepted", position, began, "more drafts are accepted than their probability allows")
        began = self._fewer.feed(position, changed_odds(accepted, expected, 1 / odds))
        if began is not None:
            return _finding("drift.accepted", position, began, "fewer drafts are accepted than their probability asks")
        return None


def _finding(detector: str, position: int, began: int, reason: str) -> Finding:
    return Finding(detector, Grade.FALLBACK, "engine", position, min(began, position), reason)
