"""Drift: the engine does something else than it says it does, seen in its own numbers."""
