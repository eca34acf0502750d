"""A backend without a model: it plays written scripts, one text for plain decoding and one for speculation.

Must not: judge, repair or hide anything; what a script says is what the guard sees, also nonsense.
Invariant: the next token depends only on the mode, the script and how many tokens are kept, so plain
decoding from any position gives what plain decoding from the start would have given.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

from policies.modes import DecodeMode
from proxy.backends.base import (
    Alternative,
    Audit,
    Capabilities,
    Delta,
    EndReason,
    ModelInfo,
    Rebuild,
    RewindReport,
    StepStats,
    Token,
)
from proxy.backends.errors import BackendError, Trouble
from proxy.conversation import ChatRequest, Message, Tool

FAST = DecodeMode("mtp+ngram")
PART = "\ue000"
"""Stands in a script for a token that ends inside a character: it has no text."""
PIECES = re.compile(r"</?(?:think|tool_call)>|[ \t]?[^\W_]{1,4}|\n+|[^\S\n]+|[^\w\s]|_", re.DOTALL)


@cache
def cut(text: str) -> tuple[str, ...]:
    """Cuts text into token texts: special tags whole, words in pieces of four characters."""
    return tuple(PIECES.findall(text))


def token_id(piece: str) -> int:
    return zlib.crc32(piece.encode()) & 0xFFFFFF


def token_ids(text: str) -> tuple[int, ...]:
    return tuple(token_id(piece) for piece in cut(text))


def call_text(name: str, **arguments: str) -> str:
    """A tool call in the qwen_xml format, values as they stand."""
    body = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{body}</function>\n</tool_call>"


@dataclass(frozen=True, slots=True)
class Script:
    """What the engine says in one response.

    plain: what plain decoding gives; fast: what any speculating mode gives (None = the same, a sound engine).
    packed: what any mode with a compressed cache gives that `fast` is not for (None = the same).
    tainted: what plain decoding gives from a state that was not rebuilt as `trusted` (None = the same).
    width: tokens per speculating step.
    audited: steps that start at these positions are audited; `"all"` = every one.
    An audit is truthful: its mismatch is the first row whose token decoding without drafts would not have given.
    fail_at: position at which `next` raises `failure`. nonfinite: positions whose logits were not finite.
    tail: text that a normal end releases. step_ms: that a step says it took; short ones may wait for each other.
    bursts: those that wait are made in a row, as an engine with a thread of its own does.
    """

    plain: str
    fast: str | None = None
    tainted: str | None = None
    packed: str | None = None
    width: int = 4
    audited: Iterable[int] | str = ()
    fail_at: int | None = None
    failure: BackendError = field(default_factory=lambda: BackendError("the engine stopped"))
    nonfinite: frozenset[int] = frozenset()
    tail: str = ""
    step_ms: float = 30.0
    bursts: bool = False


class ScriptedGeneration:
    """Plays one script. `rewinds` and `closes` record what the guard did; `kept` is what stands."""

    def __init__(
        self,
        script: Script,
        mode: DecodeMode,
        request: ChatRequest,
        prompt_tokens: int,
        pace: Callable[[], Awaitable[None]],
    ) -> None:
        self.prompt_tokens, self.cached_tokens, self.prompt_ms = prompt_tokens, 0, 1.0
        self.prompt_ids = tuple(range(prompt_tokens))
        self.seed = 1234 if request.sampling.seed is None else request.sampling.seed
        self.rewinds: list[tuple[int, str, Rebuild]] = []
        self.closes = 0
        self.steps = 0
        self.kept: list[str] = []
        self._script, self._mode, self._pace = script, mode, pace
        self._limit = request.max_tokens
        self._stops = request.stop
        self._logprobs = request.logprobs
        self._trusted = False
        self._ended = False

    async def next(self, waits: Callable[[Delta], bool] | None = None) -> Delta | None:
        delta = await self._step()
        while self._script.bursts and waits is not None and delta is not None and waits(delta):
            delta = await self._step()
        return delta

    async def _step(self) -> Delta | None:
        await self._pace()
        if self._ended:
            return None
        start = len(self.kept)
        pieces = self._pieces()
        self.steps += 1
        tokens: list[Token] = []
        end: EndReason | None = None
        stop: str | None = None
        while end is None and len(tokens) < (self._script.width if self._mode.speculates else 1):
            position = len(self.kept)
            if self._script.fail_at == position:
                if not tokens:
                    raise self._script.failure
                break
            if position >= len(pieces):
                end = "stop"
                break
            self.kept.append(pieces[position])
            finite = position not in self._script.nonfinite
            tokens.append(self._token(position, pieces[position], finite))
            stop = self._matched_stop()
            if stop is not None:
                end = "stop_sequence"
            elif self._limit is not None and len(self.kept) >= self._limit:
                end = "length"
        if end is None and len(self.kept) >= len(pieces):
            end = "stop"
        self._ended = end is not None
        drafted = self._script.width - 1 if self._mode.speculates else 0
        stats = StepStats(
            self._mode,
            "mtp" if drafted else "none",
            drafted,
            max(0, len(tokens) - 1),
            self._script.step_ms,
            self.prompt_tokens + len(self.kept),
            self._audit(start, len(tokens)),
        )
        return Delta(start, tuple(tokens), stats, end, stop, self._script.tail if end in ("stop", "length") else "")

    async def rewind(self, position: int, mode: DecodeMode, rebuild: Rebuild = "none") -> RewindReport:
        if not 0 <= position <= len(self.kept):
            raise ValueError(f"cannot rewind to {position}: {len(self.kept)} tokens were generated")
        discarded = len(self.kept) - position
        del self.kept[position:]
        self.rewinds.append((position, str(mode), rebuild))
        self._mode, self._ended, self._trusted = mode, False, rebuild == "trusted"
        return RewindReport(position, discarded, position if self._trusted else 0, 2.0, mode)

    async def close(self) -> None:
        self.closes += 1
        self._ended = True

    def _token(self, position: int, piece: str, finite: bool) -> Token:
        if piece == PART:
            return Token(token_id(piece), "", finite=finite)
        if self._logprobs is None:
            return Token(token_id(piece), piece, finite=finite)
        others = (piece, "\u20ac", *map(str, range(18)))[: self._logprobs]
        top = tuple(Alternative(token_id(other), other.encode(), -0.5 - rank) for rank, other in enumerate(others))
        return Token(token_id(piece), piece, -0.5, finite=finite, data=piece.encode(), top=top)

    def _pieces(self) -> tuple[str, ...]:
        script = self._script
        if self._mode.speculates and script.fast is not None:
            return cut(script.fast)
        if self._mode.codec != "full" and script.packed is not None:
            return cut(script.packed)
        if self._mode.speculates:
            return cut(script.plain)
        if self.rewinds and not self._trusted and script.tainted is not None:
            return cut(script.tainted)
        return cut(script.plain)

    def _audit(self, start: int, rows: int) -> Audit | None:
        audited = self._script.audited
        if not self._mode.speculates or (audited != "all" and start not in audited):
            return None
        packed = self._script.packed if self._mode.codec != "full" else None
        plain = cut(self._script.plain if packed is None else packed)[start : start + rows]
        played = self.kept[start : start + rows]
        wrong = (i for i, piece in enumerate(played) if i >= len(plain) or plain[i] != piece)
        mismatch = next(wrong, None)
        return Audit(rows, mismatch, 0.0 if mismatch is None else 3.5)

    def _matched_stop(self) -> str | None:
        text = "".join(self.kept[-64:])
        return next((stop for stop in self._stops if text.endswith(stop)), None)


async def no_pause() -> None:
    """Gives the event loop one turn, so that a closed client is noticed between two steps."""
    await asyncio.sleep(0)


class ScriptedBackend:
    """Plays one script per request; the last one is repeated for all further requests.

    answer: chooses the script by the request instead. refuse: raised by `generate`. pace: awaited before every step
    (a test may make it wait for an event). window: tokens that the model is said to read.
    """

    def __init__(
        self,
        *scripts: Script | str,
        answer: Callable[[ChatRequest], Script] | None = None,
        refuse: BackendError | None = None,
        pace: Callable[[], Awaitable[None]] = no_pause,
        window: int = 8192,
    ) -> None:
        self.info = ModelInfo("scripted", "sha256:scripted", window)
        self.capabilities = Capabilities(
            rewinds=True,
            token_ids=True,
            logprobs=True,
            audits=True,
            exactness="bitwise",
            modes=("plain", "ngram/full", "mtp/full", str(FAST)),
        )
        self.requests: list[ChatRequest] = []
        self.generations: list[ScriptedGeneration] = []
        self.running = False
        self.trouble: Trouble | None = None
        self._scripts: Sequence[Script] = [Script(s) if isinstance(s, str) else s for s in scripts or ("",)]
        self._answer, self._refuse, self._pace = answer, refuse, pace

    async def start(self) -> None:
        self.running = True

    async def stop(self) -> None:
        self.running = False

    async def generate(self, request: ChatRequest, mode: DecodeMode) -> ScriptedGeneration:
        if self._refuse is not None:
            raise self._refuse
        following = self._scripts[min(len(self.requests), len(self._scripts) - 1)]
        script = following if self._answer is None else self._answer(request)
        self.requests.append(request)
        prompt_tokens = await self.count_tokens(request.messages, request.tools)
        generation = ScriptedGeneration(script, mode, request, prompt_tokens, self._pace)
        self.generations.append(generation)
        return generation

    async def count_tokens(self, messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> int:
        return sum(len(cut(message.text)) for message in messages) + 8 * len(tools)
