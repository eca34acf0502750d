"""Responses run again on the built-in engine, between those that are served.

Must not: be imported by anybody but `proxy.backends.builtin`, whose second half this is; make a client wait for more
than the piece of work that runs when it comes.
Invariant: no place in the queue is taken and no kept prefix touched, so whenever this is dropped nothing is left of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from engine.errors import ContextOverflow
from engine.replay import Replay
from engine.reports import StepReport
from policies.modes import DecodeMode
from proxy.backends.base import Delta, Rerun, StepStats, Token
from proxy.backends.errors import BadPrompt, ContextTooLong, Preempted

if TYPE_CHECKING:
    from proxy.backends.builtin import BuiltinBackend

AsDelta = Callable[[StepReport, DecodeMode, None], Delta]
_DONE = object()


class BuiltinReplay:
    """as_delta: how the backend tells of a step."""

    prefix: Literal["kept", "made", "cold"]

    def __init__(self, backend: BuiltinBackend, replay: Replay, rerun: Rerun, as_delta: AsDelta) -> None:
        self._backend, self._rerun, self._as_delta = backend, rerun, as_delta
        self._turn = replay.turn
        self._forced = list(zip(rerun.forced, replay.texts, strict=True))
        self._closed = False
        self.prefix, self.reused = replay.prefix, replay.turn.cached_tokens

    async def next(self) -> Delta | None:
        if self._closed or self._turn.ended:
            return None
        if self._forced:
            tokens = tuple(Token(id, text) for id, text in self._forced)
            self._forced = []
            stats = StepStats(self._rerun.mode, "none", 0, 0, 0.0, self._turn.sequence.length)
            return Delta(0, tokens, stats)
        stand_back(self._backend)
        step = await self._backend.step(self._turn)
        return self._as_delta(step, self._rerun.mode, None)

    async def close(self) -> None:
        self._closed = True
        self._backend.forget(self._turn)


async def open_replay(backend: BuiltinBackend, rerun: Rerun, as_delta: AsDelta) -> BuiltinReplay:
    """Prefills, and puts the forced tokens. Raises Preempted, ContextTooLong, BadPrompt."""
    stand_back(backend)
    engine = backend.engine
    options = backend.turn_options(engine, rerun.request, rerun.mode, rerun.seed)
    options = replace(
        options,
        audit_every=1,
        audit_share=1.0,
        shadow_every=rerun.check_every,
        logprobs=0,
        constraint=options.constraint if rerun.filtered else None,
    )
    make = partial(Replay, engine, rerun.prompt_ids, options, reuse=rerun.reuse, forced=rerun.forced)
    try:
        replay = await backend.run(make)
        work = replay.prepare()
        while await backend.run(next, work, _DONE) is not _DONE:
            stand_back(backend)
    except ContextOverflow as error:
        raise ContextTooLong(error.prompt, error.limit) from error
    except ValueError as error:
        raise BadPrompt(str(error)) from error
    return BuiltinReplay(backend, replay, rerun, as_delta)


def stand_back(backend: BuiltinBackend) -> None:
    """Raises Preempted unless nobody is served and nobody waits."""
    if not backend.is_idle:
        raise Preempted("clients are being served")
