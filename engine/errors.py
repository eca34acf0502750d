"""Errors that the engine raises to its user.

Must not: be raised for a fault of the engine itself (those are ordinary Python errors).
Invariant: every message says what is wrong and where, in words that a client may see.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base class: something outside the engine is wrong."""


class ConfigError(EngineError):
    """The model's folder is incomplete, broken or not supported."""


class ContextOverflow(EngineError):
    """A prompt does not fit the context window. prompt, limit: tokens."""

    def __init__(self, prompt: int, limit: int) -> None:
        super().__init__(f"the prompt has {prompt} tokens, but the context window has {limit}")
        self.prompt = prompt
        self.limit = limit


class WeightError(EngineError):
    """The model's tensors do not fit its configuration; the message names the tensor."""


class RewindError(EngineError):
    """A state cannot be rewound to a position. nearest: the closest position before it that can be restored."""

    def __init__(self, position: int, nearest: int) -> None:
        super().__init__(f"the state cannot be rewound to {position}; the nearest restorable position is {nearest}")
        self.position = position
        self.nearest = nearest
