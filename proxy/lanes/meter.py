"""The lossless meter: a sampled share of a lane's turns is teacher-forced on the plain lane, while nobody waits.

Must not: run while a client is served, keep what was said for longer than it takes to look at it, or judge a turn that
the plain lane itself has said.
Invariant: at most `waiting` turns are kept, and no more tokens are scored within an hour than the budget allows.

The figures are of the model's own distribution, before temperature and penalties: turns with penalties, biases or a
grammar are left out, since those choose tokens that the model finds unlikely.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from proxy.conversation import ChatRequest
from proxy.lanes.asking import Asker, Target, Unanswered
from proxy.lanes.drift_figure import Drawn, DriftFigure, tally
from proxy.lanes.teacher import score

log = structlog.get_logger()
HOUR_S = 3600.0
SCORE_S = 120.0
"""A long prompt is prefilled from the beginning: prompt_logprobs read no prefix cache."""
SCORE_BYTES = 64 << 20
"""vLLM sends some 100 bytes for each token of the prompt, twice where the likeliest is another one."""
MOST_TOKENS = 65536
MADE_IDS = 1 << 31
"""From here on ids are made from text, where a lane told none (`proxy.backends.lane_tokens`)."""


@dataclass(frozen=True, slots=True)
class MeterSettings:
    """share: of turns that are looked at; 0 = none. most_tokens: of a turn, prompt included; longer ones are left out.
    tokens_per_hour: to be scored. waiting: turns kept until there is time. quiet_s: without a client before one is."""

    share: float = 0.02
    most_tokens: int = MOST_TOKENS
    tokens_per_hour: int = 500_000
    waiting: int = 4
    quiet_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What a lane has said: ids of the prompt as it rendered it, and of the response. drawn: how tokens were chosen."""

    lane: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    drawn: Drawn

    @property
    def context(self) -> int:
        return len(self.prompt_ids) + len(self.token_ids)


def drawn_how(request: ChatRequest) -> Drawn | None:
    """None: its tokens were chosen by more than the model, and show nothing."""
    sampling, demands = request.sampling, request.demands
    penalties = sampling.repetition_penalty != 1.0 or sampling.presence_penalty or sampling.frequency_penalty
    forced = demands.must_call or demands.text_schema is not None or any(tool.strict for tool in request.tools)
    if penalties or forced or sampling.logit_bias:
        return None
    return "greedy" if sampling.temperature == 0 else "sampled"


@dataclass(slots=True)
class LosslessMeter:
    """plain: the lane that scores, as `kind` and `model` say. idle: set while nobody is served. spare: held by whoever
    uses the engines then. chance, clock: for tests."""

    plain: Target
    kind: str
    model: str
    idle: asyncio.Event
    settings: MeterSettings = field(default_factory=MeterSettings)
    spare: asyncio.Lock = field(default_factory=asyncio.Lock)
    chance: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic
    figures: dict[str, DriftFigure] = field(default_factory=dict)
    problem: str = ""
    left_out: int = 0
    _turns: deque[Turn] = field(default_factory=deque)
    _spent: deque[tuple[float, int]] = field(default_factory=deque)
    _came: asyncio.Event = field(default_factory=asyncio.Event)
    _scoring: asyncio.Task[bool] | None = None

    def chooses(self, request: ChatRequest) -> bool:
        """Whether a turn that begins is to be looked at; by chance."""
        if not self.settings.share or self.chance() >= self.settings.share:
            return False
        chosen = drawn_how(request) is not None
        self.left_out += not chosen
        return chosen

    def finished(self, request: ChatRequest, lane: str, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> bool:
        """A turn that was chosen has ended, all of it said by one lane; whether it is kept to be looked at."""
        drawn = drawn_how(request)
        too_long = len(prompt_ids) + len(token_ids) > self.settings.most_tokens
        if drawn is None or too_long or not prompt_ids or not token_ids or max(token_ids) >= MADE_IDS:
            self.left_out += 1
            return False
        while len(self._turns) >= max(1, self.settings.waiting):
            self._turns.popleft()  # the newest says most about how the lane is now
            self.left_out += 1
        self._turns.append(Turn(lane, tuple(prompt_ids), tuple(token_ids), drawn))
        self._came.set()
        return True

    async def make_way(self) -> None:
        """A client came: the turn that is looked at is left out; the plain lane stops when its connection closes."""
        task = self._scoring
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait((task,), timeout=1.0)

    async def run(self) -> None:
        """For ever: waits for a turn and for a quiet moment, then looks."""
        while True:
            self._came.clear()
            if not self._turns:
                await self._came.wait()
                continue
            await self.idle.wait()
            await asyncio.sleep(self.settings.quiet_s)
            async with self.spare:
                if self.idle.is_set() and self._turns:
                    await self.look(self._turns.popleft())

    async def look(self, turn: Turn) -> bool:
        """Scores one turn, unless a client comes meanwhile or the budget is spent; whether it was scored."""
        now = self.clock()
        while self._spent and now - self._spent[0][0] > HOUR_S:
            self._spent.popleft()
        if sum(tokens for _, tokens in self._spent) + turn.context > self.settings.tokens_per_hour:
            self.left_out += 1
            return False
        self._spent.append((now, turn.context))
        self._scoring = task = asyncio.create_task(self._score(turn), name="lossless-meter")
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():  # the server ends
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                raise
            self.left_out += 1
            return False
        finally:
            self._scoring = None

    async def _score(self, turn: Turn) -> bool:
        ids, start = (*turn.prompt_ids, *turn.token_ids), len(turn.prompt_ids)
        try:
            async with Asker(self.plain, SCORE_S, SCORE_BYTES) as asker:
                scores = await score(asker, self.kind, self.model, ids, start)
        except Unanswered as error:
            self.left_out += 1
            problem = str(error)  # what the server says beside it may repeat what it was given
            if problem != self.problem:
                log.warning("meter.not_scored", lane=turn.lane, reason=problem)
            self.problem = problem
            return False
        self.problem = ""
        found = tally(scores, turn.drawn)
        self.figures.setdefault(turn.lane, DriftFigure()).add(turn.context, turn.drawn, found)
        return True

    def reads(self) -> dict[str, Any]:
        """For `/ready`: the figures of each lane, and what stands in the way of more."""
        return {
            "lanes": {name: figure.plain() for name, figure in sorted(self.figures.items())},
            "left_out": self.left_out,
            "problem": self.problem or None,
        }
