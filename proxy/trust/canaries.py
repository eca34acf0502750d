"""Runs canaries while nobody waits, and tells the breaker what they showed.

Must not: keep a client waiting for longer than the step that runs, put a mode back that was not compared with a sound
one, or leave kept prefixes behind.
Invariant: one canary at a time; answers that are there are not asked for again when a client has interrupted.

Of a mode's two halves each is held against a sound one. Drafts: the same tokens as without them, by the same codec.
A codec: every check that plain decoding passes; it changes tokens, and may. Where plain decoding passes none, equal
tokens clear a codec, and others show nothing: the mode stays out until somebody resets it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import structlog

from policies.breaker import EDGES, Key
from policies.modes import PLAIN, DecodeMode
from proxy.backends.base import Backend, EndReason, Generation
from proxy.backends.errors import BackendError
from proxy.trust.canary_prompts import ANSWER_TOKENS, Answered, Canary, Spoken, canaries
from proxy.trust.keeper import TrustKeeper
from proxy.trust.mode_checks import ModeChecks

log = structlog.get_logger()
STEP_S = 120.0
"""A step that takes longer hangs, and a mode that hangs has failed."""
Outcome = Literal["passed", "failed", "gave_up"]
UNTOLD = "; nothing tells whether the prefix cache was hit, so it proves nothing about that cache"


@dataclass(frozen=True, slots=True)
class CanarySettings:
    """most_tokens: that one canary may compute, prompts included; 0 = none is run. quiet_s: how long nobody must have
    asked for anything. needs_hit: an answer from a kept prefix must be among them, or nothing was shown."""

    most_tokens: int = 262144
    quiet_s: float = 2.0
    needs_hit: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """fault: what was wrong with the tokens' numbers, or with the lane that said them; "" = nothing."""

    tokens: tuple[Spoken, ...]
    cached_tokens: int
    fault: str = ""
    end: EndReason = "length"

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)

    @property
    def answered(self) -> Answered:
        return self.tokens, self.end


class Hung(Exception):
    """A step did not come."""


@dataclass(slots=True)
class Canaries:
    """idle: set while no response is in the making. spare: held by whoever uses the engine then, one at a time.

    checks: of modes that are servers of others. answer_tokens: of one answer, None = as shipped.
    """

    keeper: TrustKeeper
    backend: Backend
    idle: asyncio.Event
    settings: CanarySettings = field(default_factory=CanarySettings)
    spare: asyncio.Lock = field(default_factory=asyncio.Lock)
    last: str = ""
    checks: ModeChecks | None = None
    answer_tokens: int | None = None
    _running: asyncio.Task[tuple[Outcome, str]] | None = None
    _answers: dict[tuple[Key, str, DecodeMode], Answer] = field(default_factory=dict)
    _closing: set[asyncio.Task[None]] = field(default_factory=set)

    async def make_way(self) -> None:
        """A client came: the canary stops, behind the step that runs now."""
        task = self._running
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait((task,), timeout=STEP_S)

    async def run(self) -> None:
        """For ever: waits for a breaker whose cool-down is over and for a quiet moment, then looks."""
        if not self.settings.most_tokens:
            return
        while True:
            self.keeper.changed.clear()
            key = self.keeper.due()
            if key is None:
                await _first(self.keeper.changed.wait(), self.keeper.next_due_s())
                continue
            await self.idle.wait()
            await asyncio.sleep(self.settings.quiet_s)
            async with self.spare:
                await self.keeper.look(at_once=True)
                if self.idle.is_set():
                    try:
                        await self._look(key)
                    except ValueError as error:  # somebody has reset it meanwhile
                        log.info("canary.void", key=str(key), reason=str(error))

    async def _look(self, key: Key) -> None:
        record = self.keeper.begin(key)
        self._answers = {known: answer for known, answer in self._answers.items() if known[0] == key}
        self._running = asyncio.create_task(self.judge(key, record.context), name="canary")
        try:
            outcome, why = await self._running
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the server ends
                self._running.cancel()
                await asyncio.gather(self._running, return_exceptions=True)
                with suppress(ValueError):  # it may have been reset meanwhile
                    self.keeper.gave_up(key, "the server ended", 0.0)
                raise
            outcome, why = "gave_up", "a client came"
        except Exception as error:
            log.exception("canary.broke", key=str(key))
            outcome, why = "gave_up", f"it could not be run ({type(error).__name__})"
        finally:
            self._running = None
        await self.keeper.look(at_once=True)
        self.last = f"{str(key).partition(':')[0]}: {outcome.replace('_', ' ')}, {why}"
        interrupted = why == "a client came"
        if not interrupted:  # what was seen is judged; another canary must see for itself
            self._answers.clear()
        if outcome == "gave_up":
            self.keeper.gave_up(key, why, self.settings.quiet_s if interrupted else None)
            return
        (self.keeper.passed if outcome == "passed" else self.keeper.failed)(key, why)

    async def judge(self, key: Key, context: int) -> tuple[Outcome, str]:
        """Asks all questions at a context of so many tokens, in the suspected mode and in the sound ones."""
        mode = DecodeMode.parse(key.mode)
        no_drafts = DecodeMode("none", mode.codec)
        needs_hit = self.settings.needs_hit and (self.checks is None or self.checks.tells_hits(mode))
        if self.checks is not None:
            if mode == self.checks.sound:
                return "gave_up", "there is nothing sounder to hold it against"
            if why := await self.checks.unsound(mode):
                return "failed", why
        seed = 1000 + key.bucket
        at_least = EDGES[key.bucket - 1] + 1 if key.bucket else 1
        questions, tokens = await self.fitted(max(context, at_least), seed)
        groups = [[mode, no_drafts] if mode.speculates else [mode], [] if mode.codec == "full" else [PLAIN]]
        if self.checks is not None:  # a server of others is one mode as a whole
            groups = [[mode, self.checks.sound]]
        asked = len(questions) * sum(map(len, groups))
        places = sum(map(bool, groups)) if self.checks is None else 2  # each server prefills for itself
        prefills = places if needs_hit else asked  # without kept prefixes, one for each
        cost = tokens * prefills + asked * 2 * self._most
        if cost > self.settings.most_tokens:
            return "gave_up", f"it takes {cost} tokens, breaker.canary_tokens allows {self.settings.most_tokens}"
        answers: dict[tuple[str, DecodeMode], Answer] = {}
        for group in groups:
            steps = [(question, each) for question in questions for each in group]
            for question, each in steps:
                last = (question, each) == steps[-1]
                try:
                    answer = await self._ask(key, question, each, last)
                except (Hung, BackendError) as error:
                    broke = isinstance(error, Hung) or error.kind == "internal"  # else it was refused, as any may be
                    return ("failed" if broke and each == mode else "gave_up"), f"{question.name} in {each}: {error}"
                answers[question.name, each] = answer
                if answer.fault:
                    return ("failed" if each == mode else "gave_up"), f"{question.name} in {each}: {answer.fault}"
        if needs_hit and not any(a.cached_tokens for (_, m), a in answers.items() if m == mode):
            return "gave_up", "no answer came from a kept prefix, so it would show nothing"
        bitwise = self.backend.capabilities.exactness == "bitwise"
        halves: list[tuple[Outcome, str]] = []
        if self.checks is not None:
            halves.append(_no_worse(questions, answers, mode, self.checks.sound))
        elif mode.speculates:  # a device that does not repeat bits is held to the checks alone
            halves.append((_same if bitwise else _no_worse)(questions, answers, mode, no_drafts))
        if mode.codec != "full" and self.checks is None:
            halves.append(_no_worse(questions, answers, no_drafts, PLAIN))
        for wanted in ("failed", "gave_up"):
            for outcome, why in halves:
                if outcome == wanted:
                    return outcome, why
        untold = UNTOLD if self.settings.needs_hit and not needs_hit else ""
        return "passed", f"{len(questions)} answers at {tokens} tokens{untold}"

    @property
    def _most(self) -> int:
        return ANSWER_TOKENS if self.answer_tokens is None else self.answer_tokens

    async def fitted(self, context: int, seed: int) -> tuple[tuple[Canary, ...], int]:
        """Questions whose prompts have about `context` tokens, and how many they have."""
        info = self.backend.info
        room = max(1, info.context_window - 2 * self._most)
        target, sentences = min(context, room), 1

        async def made(count: int) -> tuple[tuple[Canary, ...], int]:
            questions = canaries(count, seed, info.id, info.opens_thinking, self.answer_tokens)
            request = questions[0].request
            return questions, await self.backend.count_tokens(request.messages, request.tools)

        questions, tokens = await made(sentences)
        _, more = await made(sentences + 8)
        each = max(1.0, (more - tokens) / 8)
        for _ in range(3):
            wanted = max(1, sentences + int((target - tokens) / each))
            if wanted == sentences:
                break
            sentences = wanted
            questions, tokens = await made(sentences)
        while tokens >= room + self._most and sentences > 1:
            sentences = sentences * 9 // 10
            questions, tokens = await made(sentences)
        return questions, tokens

    async def _ask(self, key: Key, question: Canary, mode: DecodeMode, last: bool) -> Answer:
        known = self._answers.get((key, question.name, mode))
        if known is not None and not last:
            return known
        async with asyncio.timeout(STEP_S * 10):
            generation = await self.backend.generate(question.request, mode)
        finish: Callable[[], Awaitable[None]] = generation.close
        try:
            answer = await _answer(generation)
            if last or answer.fault:  # its prefix is of no use to any client
                finish = getattr(generation, "discard", generation.close)
        except Hung:
            task = asyncio.ensure_future(generation.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            finish = _nothing
            raise
        finally:
            await finish()
        self._answers[key, question.name, mode] = answer
        return answer


async def _answer(generation: Generation) -> Answer:
    """Everything that is said, up to the first number that is none or the first proof of a fault."""
    tokens: list[Spoken] = []
    while True:
        try:
            async with asyncio.timeout(STEP_S):
                delta = await generation.next()
        except TimeoutError:
            raise Hung(f"a step took longer than {STEP_S:.0f} s") from None
        if delta is None:
            return Answer(tuple(tokens), generation.cached_tokens)
        fault = ""
        if any(token.finite is False for token in delta.tokens):
            fault = "its numbers are not finite"
        if delta.step.audit is not None and delta.step.audit.mismatch is not None:
            fault = "an audited step had other bits"
        if delta.found is not None:
            fault = delta.found.reason
        tokens += [Spoken(token.id, token.text, token.parts) for token in delta.tokens]
        if fault or delta.end is not None:
            return Answer(tuple(tokens), generation.cached_tokens, fault, delta.end or "length")


Answers = Mapping[tuple[str, DecodeMode], Answer]


def _same(questions: Sequence[Canary], answers: Answers, mode: DecodeMode, sound: DecodeMode) -> tuple[Outcome, str]:
    """Whether drafts have changed nothing."""
    for question in questions:
        ours, theirs = answers[question.name, mode].ids, answers[question.name, sound].ids
        if ours != theirs:
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
            place = f"token {at}" if at is not None else f"its length ({len(ours)}, {len(theirs)})"
            return "failed", f"{question.name} differs from {sound} at {place}"
    return "passed", ""


def _no_worse(
    questions: Sequence[Canary], answers: Answers, mode: DecodeMode, sound: DecodeMode
) -> tuple[Outcome, str]:
    """Whether `mode` passes every check that `sound` passes."""
    passes = 0
    for question in questions:
        if question.check is None or not question.check(answers[question.name, sound].answered):
            continue
        passes += 1
        if not question.check(answers[question.name, mode].answered):
            return "failed", f"{question.name} fails in {mode} and not in {sound}"
    same = all(answers[q.name, mode].ids == answers[q.name, sound].ids for q in questions if q.check is not None)
    if not passes and not same:
        return "gave_up", f"{sound} answers nothing rightly here, so {mode} cannot be compared"
    return "passed", ""


async def _first(event: Awaitable[object], seconds: float | None) -> None:
    """Waits for an event, at most so long."""
    try:
        async with asyncio.timeout(seconds):
            await event
    except TimeoutError:
        pass


async def _nothing() -> None:
    """For a generation that somebody else closes."""
