"""Errors carry the figures that a client needs, and one base class catches them all."""

from __future__ import annotations

from engine.errors import ConfigError, ContextOverflow, EngineError, RewindError, WeightError


def test_messages_carry_the_figures() -> None:
    overflow = ContextOverflow(5000, 4096)
    assert (overflow.prompt, overflow.limit) == (5000, 4096)
    assert "5000" in str(overflow)
    assert "4096" in str(overflow)
    rewind = RewindError(80, 50)
    assert (rewind.position, rewind.nearest) == (80, 50)
    assert "80" in str(rewind)
    assert "50" in str(rewind)


def test_one_base_class() -> None:
    assert all(issubclass(kind, EngineError) for kind in (ConfigError, ContextOverflow, RewindError, WeightError))
