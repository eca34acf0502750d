"""What a process remembers goes by one set of numbers."""

from __future__ import annotations

from detectors.drift.memory import DriftMemory
from detectors.drift.settings import DriftSettings


def test_each_part_goes_by_the_given_numbers() -> None:
    memory = DriftMemory(DriftSettings(divergence={"k4v4": 10.0}, agreement={"k4v4": 0.5}, validity_certainty=0.9999))
    assert not any(memory.divergence.feed(n, "k4v4", 100, 5.0) for n in range(200))
    assert not any(memory.agreement.feed(n, "k4v4", 100, n % 2 == 0) for n in range(200))
    assert not any(memory.validity.feed(n, "plain", 100, False) for n in range(3)), "too few"
    other = DriftMemory()
    assert any(other.divergence.feed(n, "k4v4", 100, 5.0) for n in range(200))
