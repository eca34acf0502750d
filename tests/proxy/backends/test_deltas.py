"""What the engine reports of a step reaches the guard, number by number."""

from __future__ import annotations

from engine import reports
from engine.reports import AuditReport, CacheReport, CodingReport, DrawnReport, StepReport, TokenReport
from policies.modes import DecodeMode
from proxy.backends.base import Alternative, Audit, CacheFault, CacheHealth, Coding, Drawn, StepStats, Token
from proxy.backends.deltas import as_delta

FAST = DecodeMode("mtp+ngram")


def test_numbers_of_the_step() -> None:
    report = StepReport(3, (), "mtp", 7, 2, 1.5, 40, AuditReport(3, 1, 0.5, "state"), "stop", None, "x", "mtp")
    delta = as_delta(report, FAST, None)
    assert delta.step == StepStats(FAST, "mtp", 7, 2, 1.5, 40, Audit(3, 1, 0.5, "state"), "mtp")
    assert (delta.position, delta.end, delta.tail) == (3, "stop", "x")


def test_numbers_of_the_tokens() -> None:
    told = TokenReport(7, "hi", -0.5, 0.6, 1.2, 0.9, False, ((7, -0.5), (8, -1.5)), DrawnReport(-0.4, 0.8, 0.1))
    report = StepReport(0, (told,), "none", 0, 0, 1.5, 40)
    numbers, drawn = (7, "hi", -0.5, 0.6, 1.2, 0.9, False), Drawn(-0.4, 0.8, 0.1)
    assert as_delta(report, FAST, None).tokens == (Token(*numbers, drawn=drawn),)
    top = (Alternative(7, b"7", -0.5), Alternative(8, b"8", -1.5))
    with_bytes = as_delta(report, FAST, lambda token: str(token).encode())
    assert with_bytes.tokens == (Token(*numbers, b"7", top, drawn),)


def test_numbers_of_a_compressed_cache() -> None:
    fault = reports.CacheFault("seal", 1, "keys", 64, 3.0, 0.5)
    cache = CacheReport((fault,), 64, 2, 1, CodingReport(4, 128, 0.99, 3.9), None, 0.02, 0.4)
    delta = as_delta(StepReport(0, (), "none", 0, 0, 1.5, 40, cache=cache), FAST, None)
    found = (CacheFault("seal", 1, "keys", 64, 3.0, 0.5),)
    assert delta.step.cache == CacheHealth(found, 64, Coding(4, 128, 0.99, 3.9), None, 0.02)
