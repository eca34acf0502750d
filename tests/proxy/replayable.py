"""A backend without a model that can run its responses again: what it says depends on how it is run.

Must not: judge. Invariant: a replay says what `say` gives for it, from the forced tokens on.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Literal

from policies.modes import DecodeMode
from proxy.backends.base import Delta, Rerun, StepStats, Token
from proxy.backends.errors import BackendError, Preempted
from proxy.replays.capture import Capture
from tests.proxy.played import REQUEST
from tests.proxy.scripted import Script, ScriptedBackend, ScriptedGeneration, cut, no_pause, token_id, token_ids

SOUND = "all is well here and the text goes on without any trouble until it ends, as it should. " * 3
LOOP = "all is well " + "again and " * 120
_LETTERS = random.Random(7)
VARIED = " ".join("".join(_LETTERS.choices("abcdefghijklmnop", k=_LETTERS.randint(2, 9))) for _ in range(400))
PROMPT = tuple(range(40))


class PlayedAgain:
    """prefix, reused: as asked for, from a prefix that is kept."""

    prefix: Literal["kept", "made", "cold"]

    def __init__(self, generation: ScriptedGeneration, rerun: Rerun, pieces: tuple[str, ...]) -> None:
        self._generation, self._rerun = generation, rerun
        known = {token_id(piece): piece for piece in (*cut(LOOP), *cut(SOUND), *pieces)}
        self._forced = [Token(id, known[id]) for id in rerun.forced]
        generation.kept = [token.text for token in self._forced]
        self.prefix, self.reused = ("kept" if rerun.reuse else "cold"), rerun.reuse

    async def next(self) -> Delta | None:
        if self._forced:
            tokens, self._forced = tuple(self._forced), []
            return Delta(0, tokens, StepStats(self._rerun.mode, "none", 0, 0, 0.0, 0))
        return await self._generation.next()

    async def close(self) -> None:
        await self._generation.close()


class Replayable(ScriptedBackend):
    """say: what a run says; the responses of clients are those of the fast mode and of plain decoding.

    preempt: how many runs clients interrupt; refuse_runs: raised instead of a run.
    """

    def __init__(
        self,
        say: Callable[[Rerun], str],
        script: Script | str = "",
        preempt: int = 0,
        refuse_runs: Exception | None = None,
        pace: Callable[[], Awaitable[None]] = no_pause,
    ) -> None:
        super().__init__(script)
        self._say, self.preempt, self._refuse_runs, self._run_pace = say, preempt, refuse_runs, pace
        self.reruns: list[Rerun] = []
        self.runs: list[ScriptedGeneration] = []

    async def replay(self, rerun: Rerun) -> PlayedAgain:
        self.reruns.append(rerun)
        if self._refuse_runs is not None:
            raise self._refuse_runs
        if self.preempt:
            self.preempt -= 1
            raise Preempted("clients are being served")
        text = self._say(rerun)
        run = ScriptedGeneration(Script(text), rerun.mode, rerun.request, len(rerun.prompt_ids), self._run_pace)
        self.runs.append(run)
        return PlayedAgain(run, rerun, cut(text))


def capture(text: str = LOOP, mode: DecodeMode | None = None, kept: int = 4, cached: int = 0) -> Capture:
    """Of a response that said `text` and was rewound to its token `kept`."""
    ids, mode = token_ids(text), mode or DecodeMode("mtp+ngram")
    request = replace(REQUEST, tools=())
    return Capture(request, mode, 1, PROMPT, cached, ids[:kept], ids[kept:], ((0, mode),), text)


__all__ = ["LOOP", "PROMPT", "SOUND", "VARIED", "BackendError", "PlayedAgain", "Replayable", "capture"]
