"""Measures the drift detectors: how soon they convict, how seldom without cause, and what a token costs.

Must not: import the engine; here draws are simulated, faults in a real engine are the tests' matter.
Invariant: the same numbers on every machine, but for the time per token.
"""

from __future__ import annotations

import math
import random
import statistics
import time

from detectors.drift.calibration import Calibration
from detectors.drift.settings import DEFAULT
from detectors.drift.sprt import AgreementTest
from proxy.bench.report import Bar, Table

Q0 = 0.955
"""Agreement of 4-bit keys and values at 8k tokens: the baseline that the bars are about."""


def measure(tokens: int = 200_000) -> tuple[tuple[Bar, ...], tuple[Table, ...]]:
    """tokens: draws of each simulated text (about 20 us each). Returns bars and tables for `bench detectors`."""
    delays = {rate: _delays(rate) for rate in (0.90, 0.85, 0.70, 0.50)}
    tests = 4000
    false = _false(tests)
    found, seconds = zip(*(_calibration(tokens, deviation, 0.0) for deviation in (0.3, 0.6, 1.0)), strict=True)
    _, cost = min(zip(found, seconds, strict=True), key=lambda pair: pair[1])
    per_million = sum(found) * 1e6 / (tokens * len(found))
    bars = (
        Bar.at_most("shadow: 85 % agreement, median samples", 150, statistics.median(delays[0.85])),
        Bar.at_most("shadow: false convictions per test", DEFAULT.agreement_alpha, false / tests),
        Bar.at_most("calibration: false convictions per 1e6 tokens, AR(1) content", 1, per_million),
        Bar.at_most("calibration: time per token", 3, cost, "us"),
    )
    rows = tuple(
        (f"{rate:.0%}", statistics.median(each), sorted(each)[len(each) * 9 // 10]) for rate, each in delays.items()
    )
    sharp = tuple((f"{share:.0%}", _first(share, seed=7)) for share in (1.0, 0.5, 0.25))
    return bars, (
        Table("Shadow agreement: samples to a conviction", ("true agreement", "median", "p90"), rows, f"baseline {Q0}"),
        _sweep(),
        Table("Argmax acceptance: tokens to a conviction", ("share of tokens", "median"), sharp),
    )


def _sweep() -> Table:
    """Other points for the agreement test: what counts as broken, and how sure a conviction has to be."""
    rows = []
    for drop in (0.05, 0.10, 0.20):
        for alpha in (1e-2, 1e-3, 1e-4):
            shipped = (drop, alpha) == (DEFAULT.agreement_drop, DEFAULT.agreement_alpha)
            found = statistics.median(_delays(0.85, 100, drop, alpha))
            false = 100 * _false(1000, drop, alpha) / 1000
            rows.append((drop, alpha, found, false, "shipped" if shipped else ""))
    columns = ("agreement_drop", "agreement_alpha", "median samples at 85 %", "false convictions per test %", "")
    return Table("Shadow agreement: threshold sweep", columns, tuple(rows), f"baseline {Q0}")


_GIVEN_UP = 5000


def _delays(
    rate: float, runs: int = 400, drop: float = DEFAULT.agreement_drop, alpha: float = DEFAULT.agreement_alpha
) -> list[int]:
    rng, delays = random.Random(1), list[int]()
    for _ in range(runs):
        test, samples = _test(drop, alpha), 1
        while test.feed(samples, rng.random() < rate) is None and samples < _GIVEN_UP:
            samples += 1
        delays.append(samples)
    return delays


def _false(tests: int, drop: float = DEFAULT.agreement_drop, alpha: float = DEFAULT.agreement_alpha) -> int:
    rng, test, convictions = random.Random(2), _test(drop, alpha), 0
    while test.acquittals + convictions < tests:
        convictions += test.feed(0, rng.random() < Q0) is not None
    return convictions


def _test(drop: float, alpha: float) -> AgreementTest:
    return AgreementTest(Q0, Q0 - drop, alpha, DEFAULT.agreement_beta)


def _first(share: float, seed: int) -> float:
    """Median over seven texts; infinite = not within 5,000 tokens."""
    return statistics.median(_convicted(5000, 0.6, share, seed + run)[0] for run in range(7))


def _calibration(tokens: int, deviation: float, share: float) -> tuple[int, float]:
    """Convictions, and microseconds of the detector per token."""
    _, count, seconds = _convicted(tokens, deviation, share, seed=3, stop=False)
    return count, seconds / tokens * 1e6


def _convicted(tokens: int, deviation: float, share: float, seed: int, stop: bool = True) -> tuple[float, int, float]:
    """First conviction (infinite: none), how many, seconds in the detector. Content is AR(1) with coefficient .99."""
    rng, calibration = random.Random(seed), Calibration()
    x, step = rng.gauss(0, deviation), deviation * math.sqrt(1 - 0.99**2)
    first, count, seconds = math.inf, 0, 0.0
    for start in range(0, tokens, 1000):
        batch = []
        for position in range(start, min(start + 1000, tokens)):
            p = _distribution(x, rng.choice((2, 3, 5, 12)))
            x = 0.99 * x + rng.gauss(0, step)
            token = 0 if rng.random() < share else rng.choices(range(len(p)), p)[0]
            draft = 0 if rng.random() < 0.7 else rng.randrange(len(p))
            logs = [math.log(each) for each in p]
            entropy = -sum(map(math.prod, zip(p, logs, strict=True)))
            variance = sum(each * (log + entropy) ** 2 for each, log in zip(p, logs, strict=True))
            batch.append((position, logs[token], entropy, variance, p[draft], token == draft))
        began = time.thread_time()
        found = [
            position
            for position, logprob, entropy, variance, expected, accepted in batch
            if calibration.token(position, logprob, entropy, variance)
            or calibration.draft(position, expected, accepted)
        ]
        seconds += time.thread_time() - began
        count += len(found)
        first = min([first, *found])
        if stop and found:
            break
    return first, count, seconds


def _distribution(x: float, size: int) -> list[float]:
    weights = [math.exp(-1.5 * math.exp(x) * rank) for rank in range(size)]
    total = sum(weights)
    return [max(weight / total, 1e-12) for weight in weights]
