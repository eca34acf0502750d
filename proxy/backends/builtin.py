"""The built-in engine as a backend: one worker thread owns the device, asyncio awaits its steps.

Several responses at once share forwards: whoever waits for a step when the device is free goes into the next one.

Must not: decide anything. The only module that imports `engine`.
Invariant: the engine is touched by the worker thread alone; a cancelled await never leaves a turn half closed,
because closing is queued behind the step that still runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from engine import reports
from engine.codecs.spec import check_codec
from engine.dtype import AUTO, DTYPES
from engine.engine import EMBEDDED, Engine, EngineOptions
from engine.errors import ContextOverflow, EngineError
from engine.faults import Fault
from engine.penalties import check_bias
from engine.sampler import SamplingParams
from engine.selftest import SelfTest
from engine.template import TemplateError
from engine.turn import Turn, TurnOptions
from policies.modes import DecodeMode
from proxy.backends.base import Capabilities, Load, ModelInfo, Rerun
from proxy.backends.deltas import as_delta
from proxy.backends.errors import (
    BackendError,
    BadPrompt,
    ContextTooLong,
    EngineLost,
    Overloaded,
    Trouble,
)
from proxy.backends.generation import BuiltinGeneration
from proxy.backends.prompt import Prompter
from proxy.backends.queue import TurnQueue
from proxy.backends.replay import BuiltinReplay, open_replay
from proxy.backends.token_constraint import constraint_for
from proxy.backends.upkeep import STUCK_S, Upkeep
from proxy.conversation import ChatRequest, Message, Tool

T = TypeVar("T")
RESTARTED = Trouble("died", "the engine was restarted meanwhile; send the request again")


class BuiltinBackend:
    """folder: a model in Hugging Face layout, None = the embedded one. max_turns: responses in the making at once;
    max_waiting: requests that may wait for their turn, in order; keep, keep_bytes: sequences kept for prefix reuse and
    what they may hold together; force_low_bits, shadow_bytes: see EngineOptions; threads: torch threads of the worker;
    plant: name of a fault to plant (demo and tests only); stuck_s: a step that takes longer is trouble.

    audit_every: may be set; it holds for responses that begin from then on."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        name: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        threads: int = 1,
        audit_every: int = 16,
        audit_share: float = 0.005,
        shadow_every: int = 0,
        max_turns: int = 8,
        max_waiting: int = 16,
        keep: int = 8,
        keep_bytes: int | None = None,
        force_low_bits: bool = False,
        shadow_bytes: int = 0,
        plant: str | None = None,
        stuck_s: float = STUCK_S,
    ) -> None:
        self.folder = folder or EMBEDDED
        self.name = name or ("specguard-embedded" if folder is None else folder.resolve().name)
        if dtype not in (AUTO, *DTYPES):
            raise BackendError(f"model.dtype: {dtype!r} is unknown; use one of {', '.join((AUTO, *DTYPES))}")
        try:
            fault = Fault(plant) if plant else None
        except ValueError:
            known = ", ".join(Fault)
            raise BackendError(f"plant: there is no fault {plant!r}; known faults: {known}") from None
        self._options = EngineOptions(
            device=device,
            dtype=dtype,
            keep=keep,
            keep_bytes=keep_bytes,
            force_low_bits=force_low_bits,
            shadow_bytes=shadow_bytes,
            fault=fault,
        )
        self._threads, self.audit_every, self._shadow_every = threads, audit_every, shadow_every
        self._audit_share = audit_share
        self._queue = TurnQueue(max_turns, max_waiting)
        self._upkeep: Upkeep[Turn, reports.StepReport] = Upkeep(
            lambda turns: self.engine.step(turns), self._reload, stuck_s
        )
        self._engine: Engine | None = None
        self._prompter: Prompter | None = None
        self.info = ModelInfo(self.name, "", 0)
        self.capabilities = Capabilities(True, True, True, True, "unknown")

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise Overloaded("the model is still loading; retry in a moment")
        return self._engine

    async def start(self) -> None:
        """Loads the model and runs the self-test on the worker thread."""
        engine, test = await self._loaded()
        self.info = ModelInfo(
            self.name,
            engine.fingerprint,
            engine.model.config.max_context,
            opens_thinking=engine.render([{"role": "user", "content": ""}], ()).rstrip().endswith("<think>"),
            details={
                "architecture": engine.model.config.model_type,
                "device": self._options.device,
                "dtype": str(engine.model.dtype).removeprefix("torch."),
                "self_test": f"{test.rows - test.mismatches}/{test.rows} rows bitwise equal",
                "batch": f"up to {test.blocks} sequences in one forward",
                **({"notes": "; ".join(engine.model.notes)} if engine.model.notes else {}),
            },
        )
        modes = tuple(str(DecodeMode(drafter, codec)) for codec in engine.codecs for drafter in engine.drafters)
        self.capabilities = Capabilities(True, True, True, True, test.exactness, modes, constraints=True)
        self._upkeep.watch()

    @property
    def trouble(self) -> Trouble | None:
        """A worker that has died, or a step that does not return."""
        return self._upkeep.trouble

    async def stop(self) -> None:
        """Waits for the running step, then ends the worker."""
        if self._engine is not None:
            self._engine.release()
        await self._upkeep.stop()
        self._engine = None

    async def _loaded(self) -> tuple[Engine, SelfTest]:
        try:
            engine, test = await self._upkeep.load(self._load)
        except EngineError as error:
            raise BackendError(f"the model in {self.folder} cannot be loaded: {error}") from error
        self._engine = engine
        self._prompter = Prompter(engine.render, engine.tokenizer.encode)
        return engine, test

    async def _reload(self) -> None:
        """The thread has died, in the middle of whatever it did: nothing of its engine is used any more."""
        old = None if self._engine is None else weakref.ref(self._engine.model)
        self._engine = self._prompter = None
        await self._upkeep.until_gone(old)  # the device may have no room for both
        if self._options.fault is Fault.WORKER_DIES:  # struck
            self._options = replace(self._options, fault=None)
        await self._loaded()

    async def generate(self, request: ChatRequest, mode: DecodeMode) -> BuiltinGeneration:
        """Renders, tokenises and prefills; between two chunks of the prompt a cancelled request stops."""
        self._check_mode(request, mode)
        await self._queue.enter()
        try:
            # not sooner: who has waited through a restart is served by the fresh engine, and has not held the old one
            return await self._open(self.engine, request, mode)
        except BaseException:
            self._queue.leave()
            raise

    def _check_mode(self, request: ChatRequest, mode: DecodeMode) -> None:
        engine = self.engine
        try:
            check_codec(mode.codec, bool(request.tools), self._options.force_low_bits)
        except ValueError as error:
            problem = str(error).removeprefix("codec: ").replace("force it", "set decode.force_low_bits on the server")
            raise BadPrompt(f"kv: {problem}", "kv") from error
        if mode.codec not in engine.codecs:
            raise BadPrompt(f"kv: codec {mode.codec!r} does not fit this model's heads; use 'full'", "kv")
        if mode.drafter not in engine.drafters:
            raise BadPrompt(
                f"speculative.types: {mode.drafter!r} needs an MTP head, which this model lacks; use 'ngram'",
                "speculative.types",
            )

    async def replay(self, rerun: Rerun) -> BuiltinReplay:
        """See `proxy.backends.base.Replayer`."""
        return await open_replay(self, rerun, as_delta)

    async def count_tokens(self, messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> int:
        prompt, _ = await asyncio.to_thread(self._prompt, self.engine, messages, tools)
        return len(prompt)

    @property
    def is_idle(self) -> bool:
        """Whether no response is in the making and no request waits for its turn."""
        return self._queue.is_idle

    @property
    def load(self) -> Load:
        """For the metrics."""
        return Load(self._upkeep.steps, self._queue.running, self._queue.waiting)

    def forget(self, turn: Turn) -> None:
        """No step waits for this turn any more."""
        self._upkeep.forget(turn)

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """Runs a call on the worker thread. Raises EngineLost."""
        return await self._upkeep.run(call, *arguments)

    async def step(self, turn: Turn, goes_on: Callable[[reports.StepReport], bool] | None = None) -> reports.StepReport:
        """The turn's next step, in one forward with those of other turns. goes_on: see `DeviceWorker.step`. Raises
        EngineLost."""
        self.check_current(turn)
        return await self._upkeep.step(turn, goes_on)

    def check_current(self, turn: Turn) -> None:
        """Raises EngineLost for a turn that a restart has left behind."""
        if not self._is_current(turn):
            raise EngineLost(RESTARTED)

    async def memory(self) -> dict[str, int]:
        """Bytes of live tensors by what they hold, between two steps."""
        report = await self.run(self.engine.memory)
        return {"weights": report.weights, "sequences": report.sequences, "steps": report.steps}

    def fits(self, mode: DecodeMode, tokens: int) -> bool:
        """Whether the cache of a new sequence of so many tokens has room now."""
        return self.engine.can_fit(mode.codec, tokens)

    async def closed(self, turn: Turn, keep: bool = True) -> None:
        """A generation is over: its sequence goes back for prefix reuse, behind any step that still runs."""
        self._queue.leave()
        self._upkeep.forget(turn)
        if not self._is_current(turn):
            return
        if self.trouble is not None:  # it may still end; then the turn is closed behind it
            self._upkeep.submit(self.engine.close, turn, keep)
            return
        with contextlib.suppress(RuntimeError, EngineLost):  # the worker is shut down already, or gone
            await asyncio.shield(self.run(self.engine.close, turn, keep))

    def _is_current(self, turn: Turn) -> bool:
        """Whether it belongs to the engine in use: a restart leaves turns behind."""
        return self._engine is not None and turn.sequence.model is self._engine.model

    def _load(self) -> tuple[Engine, SelfTest]:
        torch.set_num_threads(self._threads)
        engine = Engine(self.folder, self._options)
        return engine, engine.self_test()

    def _prompt(
        self, engine: Engine, messages: tuple[Message, ...], tools: tuple[Tool, ...]
    ) -> tuple[list[int], tuple[int, ...]]:
        """Token ids, and where other conversations of the same agent would branch off."""
        prompter = self._prompter or Prompter(engine.render, engine.tokenizer.encode)
        try:
            prompt = prompter.tokens(messages, tools)
            branch = prompter.branch(messages, tools, prompt)
        except TemplateError as error:
            raise BadPrompt(str(error)) from error
        return prompt, (branch,) if branch else ()

    async def _open(self, engine: Engine, request: ChatRequest, mode: DecodeMode) -> BuiltinGeneration:
        prompt, marks = await asyncio.to_thread(self._prompt, engine, request.messages, request.tools)
        wanted = request.sampling
        seed = wanted.seed if wanted.seed is not None else (secrets.randbits(63) if wanted.temperature > 0 else 0)
        options = self.turn_options(engine, request, mode, seed)
        started = time.perf_counter()
        opened: list[Turn] = []

        def opening() -> Turn:
            if engine is not self._engine:
                raise EngineLost(RESTARTED)
            opened.append(engine.open(prompt, options, marks))
            return opened[0]

        try:
            turn = await self.run(opening)
        except ContextOverflow as error:
            raise ContextTooLong(error.prompt, error.limit) from error
        except (asyncio.CancelledError, EngineLost):
            # the worker may open it all the same, with somebody's kept prefix inside
            self._upkeep.submit(_close_opened, engine, opened)
            raise
        try:
            chunks = turn.sequence.prefill()
            while await self.run(next, chunks, None) is not None:
                pass
        except BaseException:
            self._upkeep.submit(engine.close, turn)
            raise
        prompt_ms = (time.perf_counter() - started) * 1e3
        promised = request.demands.text_schema_at
        return BuiltinGeneration(self, turn, mode, seed, prompt_ms, request.logprobs is not None, promised)

    def turn_options(self, engine: Engine, request: ChatRequest, mode: DecodeMode, seed: int) -> TurnOptions:
        """How a request is generated. Raises BadPrompt."""
        wanted, wanted_drafts = request.sampling, request.decoding.max_draft
        try:
            sampling = SamplingParams(
                wanted.temperature,
                wanted.top_k,
                wanted.top_p,
                wanted.min_p,
                seed,
                wanted.repetition_penalty,
                wanted.presence_penalty,
                wanted.frequency_penalty,
                wanted.logit_bias,
            )
            check_bias(sampling, engine.valid_tokens)
        except ValueError as error:  # its message begins with the field's name
            raise BadPrompt(str(error), str(error).partition(":")[0]) from error
        return TurnOptions(
            sampling=sampling,
            drafter=mode.drafter,
            max_draft=engine.model.rows - 1 if wanted_drafts is None else wanted_drafts,
            max_tokens=request.max_tokens,
            stops=request.stop,
            audit_every=self.audit_every,
            audit_share=self._audit_share,
            shadow_every=self._shadow_every,
            logprobs=request.logprobs or 0,
            constraint=constraint_for(request, engine.tokenizer, self.info.opens_thinking),
            codec=mode.codec,
            tools=bool(request.tools),
        )


def _close_opened(engine: Engine, opened: Sequence[Turn]) -> None:
    """Runs on the worker thread behind the opening."""
    for turn in opened:
        engine.close(turn)
