"""One response of the built-in engine: its steps and rewinds as the backend interface has them.

Must not: be imported by anybody but `proxy.backends.builtin`, whose part this is; touch the engine but through it.
Invariant: after `close` or `discard` the turn is the engine's again, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine import reports
from engine.turn import Turn
from policies.modes import DecodeMode
from proxy.backends.base import Delta, Rebuild, RewindReport
from proxy.backends.deltas import as_delta
from proxy.backends.errors import BackendError

if TYPE_CHECKING:
    from proxy.backends.builtin import BuiltinBackend


class BuiltinGeneration:
    """One response of the built-in engine.

    logprobs: whether tokens carry their bytes and alternatives. promised: the field that promised a form of the text.
    """

    def __init__(
        self,
        backend: BuiltinBackend,
        turn: Turn,
        mode: DecodeMode,
        seed: int,
        prompt_ms: float,
        logprobs: bool = False,
        promised: str = "",
    ) -> None:
        self._backend, self._turn, self._mode = backend, turn, mode
        self._closed = False
        self.prompt_ids = tuple(turn.sequence.tokens[: turn.prompt_tokens])
        self.prompt_tokens, self.cached_tokens = turn.prompt_tokens, turn.cached_tokens
        self.prompt_ms, self.seed = prompt_ms, seed
        self._bytes = turn.tokenizer.token_bytes if logprobs else None
        self._promised = promised

    async def next(self, waits: Callable[[Delta], bool] | None = None) -> Delta | None:
        if self._turn.ended:
            return None
        if waits is None:
            return self._delta(await self._backend.step(self._turn))
        seen: list[tuple[reports.StepReport, Delta]] = []

        def goes_on(step: reports.StepReport) -> bool:
            seen[:] = [(step, self._delta(step))]
            return waits(seen[0][1])

        last = await self._backend.step(self._turn, goes_on)
        return seen[0][1] if seen and seen[0][0] is last else self._delta(last)

    def _delta(self, step: reports.StepReport) -> Delta:
        if step.dead_end and self._promised:  # of calls the guard judges; nobody else judges the text
            raise BackendError(
                f"{self._promised}: the model got to where nothing valid can follow; simplify the schema"
            )
        return as_delta(step, self._mode, self._bytes)

    async def rewind(self, position: int, mode: DecodeMode, rebuild: Rebuild = "none") -> RewindReport:
        def call() -> reports.RewindReport:
            if rebuild == "clean":
                return self._backend.engine.rewind(self._turn, position, mode.drafter, mode.codec)
            return self._turn.rewind(position, mode.drafter, trusted=rebuild == "trusted", codec=mode.codec)

        self._backend.check_current(self._turn)
        report = await self._backend.run(call)
        # without room for a full cache the old one stays, and is named as what it is
        self._mode = DecodeMode(mode.drafter, report.codec)
        numbers = (report.position, report.discarded, report.rebuilt, report.milliseconds)
        return RewindReport(*numbers, self._mode, report.level)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._backend.closed(self._turn)

    async def discard(self) -> None:
        """Closes, and keeps nothing for prefix reuse."""
        if not self._closed:
            self._closed = True
            await self._backend.closed(self._turn, keep=False)
