"""The engine as a whole: a model folder loaded, self-tested, and ready to open turns.

Must not: run threads or know asyncio; whoever embeds it owns the thread that calls it.
Invariant: a sequence belongs to one turn at a time; `close` gives it back for prefix reuse.
"""

from __future__ import annotations

import hashlib
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.audit import AuditPlan
from engine.capture_check import check_captures
from engine.checks import CacheChecks
from engine.codecs.packing import MULTIPLE
from engine.codecs.spec import CODECS, DEFAULT, FULL, check_codec
from engine.config import ModelConfig
from engine.costs import measure_costs
from engine.drafters.base import Drafter
from engine.drafters.mtp import MAX_QUEUED, MtpDrafter
from engine.drafters.ngram import HINT, NgramDrafter
from engine.drafting import SHORT, Draft
from engine.dtype import parse_dtype
from engine.errors import ConfigError, ContextOverflow
from engine.faults import Fault
from engine.kernels.check import check_kernels
from engine.memory import Budget
from engine.model import Model
from engine.pacing import TYPICAL, Costs, Pacer
from engine.penalties import check_bias
from engine.planted_codecs import coded_caches
from engine.planted_device import PlantedDevice
from engine.planted_prefix import poison
from engine.prefix import PrefixStore
from engine.reports import MemoryReport, RewindReport, StepReport
from engine.sampler import SamplingParams
from engine.selftest import SelfTest, self_test
from engine.sequence import Sequence as TokenSequence
from engine.shadow import ShadowBudget
from engine.template import ChatTemplate
from engine.tokenizer import Tokenizer
from engine.turn import Turn, TurnOptions

EMBEDDED = Path(__file__).with_name("embedded")
"""The small model that is shipped with the project."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """dtype: `float32`, `bfloat16` or `auto` (measured); rows: width of every decode step; keep: sequences kept for
    prefix reuse; keep_bytes: most bytes they may hold (None = no limit); force_low_bits: allow codecs that break tool
    calls; cache_bytes: most bytes of a sequence's attention caches after a switch to `full` (None = what is free on the
    device); shadow_bytes: host memory for full-precision rows of compressed prompts (0 = none, see engine.shadow);
    fault: planted on purpose."""

    device: str = "cpu"
    dtype: str = "float32"
    rows: int = 8
    keep: int = 8
    keep_bytes: int | None = None
    force_low_bits: bool = False
    cache_bytes: int | None = None
    shadow_bytes: int = 0
    capture: bool = True
    fault: Fault | None = None


class Engine:
    """Not thread safe: one thread makes all calls after `load`, except `render` and `encode`."""

    def __init__(self, folder: Path, options: EngineOptions = EngineOptions()) -> None:
        """Loads everything. Raises EngineError (ConfigError, WeightError, TemplateError)."""
        self.folder, self.options = folder, options
        check_device(options.device)
        self.tokenizer = Tokenizer.load(folder)
        if not self.tokenizer.eos_ids:
            raise ConfigError("eos_token_id: is in none of generation_config.json, config.json, tokenizer_config.json")
        self.template = ChatTemplate.load(folder)
        dtype = parse_dtype(options.dtype, options.device, ModelConfig.load(folder), options.rows)
        self.model = Model.load(folder, options.device, dtype, rows=options.rows)
        known = self.model.config.vocab_size
        if self.tokenizer.vocab_size > known:
            raise ConfigError(
                f"tokenizer.json: has ids up to {self.tokenizer.vocab_size - 1}, but vocab_size in config.json is "
                f"{known}; it belongs to another model"
            )
        self.fingerprint = fingerprint(folder)
        self.prefixes = PrefixStore(self._new_sequence, options.keep, options.keep_bytes)
        self.shadows = ShadowBudget(options.shadow_bytes) if options.shadow_bytes else None
        self.checks = CacheChecks()
        self.plan = AuditPlan()
        self._device = PlantedDevice(options.fault)
        self.budget = Budget(self.model.device, options.cache_bytes)
        self.max_blocks = 1
        self.costs: Costs = TYPICAL
        """What a step and a draft cost here; typical ratios until `self_test` has measured them."""

    @property
    def drafters(self) -> tuple[str, ...]:
        """Drafter settings that this model can run."""
        return ("none", "ngram", "mtp", "mtp+ngram") if self.model.mtp is not None else ("none", "ngram")

    @property
    def codecs(self) -> tuple[str, ...]:
        """KV codecs that fit this model's heads."""
        return CODECS if self.model.config.head_dim % MULTIPLE == 0 else (FULL,)

    @property
    def valid_tokens(self) -> int:
        """Ids below this one are real; the model's vocabulary may be padded beyond the tokenizer's."""
        return self.tokenizer.vocab_size

    def self_test(self) -> SelfTest:
        """About a second; without the planted fault, which starts acting with the first turn. Sets `max_blocks` and
        measures `costs` too."""
        kernels = self.model.kernels
        if kernels.on:
            check_kernels(self.model, [codec for codec in self.codecs if codec != FULL])
        test = self_test(self.model)
        if DEFAULT in self.codecs:  # one stands for all: they differ in tables, not in what is read when
            coded = self_test(self.model, max_blocks=1, codec=DEFAULT)
            if kernels.on and coded.exactness != "bitwise":
                kernels.on = False
                plain = self_test(self.model, max_blocks=1, codec=DEFAULT)
                if plain.exactness == "bitwise":
                    coded = plain
                    kernels.switch_off("speculative rows differ from plain ones")
                else:
                    kernels.on = True  # it is not the kernels
            test = test.and_also(coded)
        if kernels.why:
            self.model.notes += (f"compressed caches are read by torch operators: {kernels.why}",)
        if self.options.capture and not check_captures(self.model, test.blocks) and self.model.device.type == "cuda":
            self.model.notes += (f"steps are not captured: {self.model.captures.why or 'the context is too short'}",)
        self.max_blocks, self.plan.exact = test.blocks, test.exactness == "bitwise"
        self.costs = self.plan.costs = measure_costs(self.model, self.valid_tokens)
        return test

    def step(self, turns: Sequence[Turn]) -> list[StepReport | Exception]:
        """One step of each turn, as many in one forward as the self-test allows; one turn's error is its own result.

        The tokens do not depend on which turns stand together.
        """
        self._device.before_step(turns)
        started = time.perf_counter()
        results: dict[int, StepReport | Exception] = {}
        ready: list[tuple[int, Draft]] = []
        for index, turn in enumerate(turns):
            try:
                ready.append((index, turn.propose()))
            except Exception as error:
                results[index] = error
        for at in range(0, len(ready), self.max_blocks):
            group = ready[at : at + self.max_blocks]
            blocks = [turns[index].sequence.block(draft.tokens) for index, draft in group]
            try:
                rows = self.model.decode_blocks(blocks, self.options.fault)
            except Exception as error:
                results.update((index, error) for index, _ in group)
                continue
            self.checks.decoded((time.perf_counter() - started) * 1e3)
            for (index, draft), part in zip(group, rows, strict=True):
                try:
                    results[index] = turns[index].accept(draft, part, started)
                except Exception as error:
                    results[index] = error
        return [results[index] for index in range(len(turns))]

    def release(self) -> None:
        """Lets a step go on that a planted fault has halted; from any thread."""
        self._device.release()

    def memory(self) -> MemoryReport:
        """Bytes of live tensors: weights, and the sequences that are kept or in use."""
        steps = self.model.decoding.nbytes + self.model.captures.nbytes
        return MemoryReport(self.model.nbytes, self.prefixes.nbytes, len(self.prefixes), steps)

    def can_fit(self, codec: str, context: int) -> bool:
        """Whether a new sequence of so many tokens has room. Ask `turn.sequence.can_fit` about a switch: what that
        sequence holds is given back."""
        return self.budget.has_room(self.model.cache_bytes(codec, context))

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str:
        """The prompt text of a conversation. Raises TemplateError."""
        return self.template.render(messages, tools or None, add_generation_prompt=True)

    def open(self, prompt: Sequence[int], options: TurnOptions, marks: Sequence[int] = ()) -> Turn:
        """A turn whose prompt still has to be prefilled: iterate `turn.sequence.prefill()` before the first step.

        marks: positions where other prompts are likely to branch off, as the end of system prompt and tools.
        Raises ContextOverflow, and ValueError for a drafter that this model cannot run, a codec that the
        response must not use, or a token that the model lacks.
        """
        self.check(prompt, options)  # before a kept sequence is touched
        sequence = self.prefixes.take(prompt, options.codec)
        try:
            return self.begin(sequence, prompt, options, marks)
        except BaseException:
            self.prefixes.drop(sequence)
            raise

    def check(self, prompt: Sequence[int], options: TurnOptions) -> None:
        """Raises as `open` does for what it would refuse."""
        limit = self.model.config.max_context
        if len(prompt) >= limit:
            raise ContextOverflow(len(prompt), limit)
        if options.drafter not in self.drafters:
            raise ValueError(f"drafter: {options.drafter!r} is not one of {', '.join(self.drafters)}")
        check_codec(options.codec, options.tools, self.options.force_low_bits)
        if options.codec not in self.codecs:
            raise ValueError(f"codec: {options.codec!r} needs head_dim in multiples of {MULTIPLE}; use {FULL!r}")
        check_bias(options.sampling, self.valid_tokens)

    def begin(
        self,
        sequence: TokenSequence,
        prompt: Sequence[int],
        options: TurnOptions,
        marks: Sequence[int] = (),
        plan: AuditPlan | None = None,
    ) -> Turn:
        """A turn on a sequence that the caller owns; `open` for everybody else. plan: None = the engine's own."""
        turn = Turn(sequence, prompt, self.tokenizer, options, self.options.fault, marks, plan or self.plan)
        mtp = sequence.drafters.get("mtp")
        if isinstance(mtp, MtpDrafter):
            mtp.sampling, mtp.penalties = options.sampling, turn.penalties
            mtp.max_queued = self.model.prefill_rows if "mtp" in options.drafter else MAX_QUEUED
        return turn

    def close(self, turn: Turn, keep: bool = True) -> None:
        """Keeps what the turn has committed for prefix reuse, unless an exception left it half changed or `keep` is
        False.

        Closing a turn again has no effect.
        """
        if turn.closed:
            return
        turn.closed = True
        turn.let_go()
        if keep and turn.sequence.intact:
            if self.options.fault is Fault.POISONED_PREFIX:
                poison(turn.sequence)
            self.prefixes.put(turn.sequence)
        else:
            self.prefixes.drop(turn.sequence)

    def rewind(self, turn: Turn, position: int, drafter: str, codec: str) -> RewindReport:
        """`Turn.rewind` after its cache was accused: neither this turn nor a later one goes on from what is stored."""
        self.prefixes.distrust(turn.sequence.codec)
        return turn.rewind(position, drafter, trusted=True, codec=codec, clean=True)

    def _new_sequence(self) -> TokenSequence:
        self.model.make_coded = coded_caches(self.options.fault)  # not sooner: the self-test is about the engine
        sequence = TokenSequence(self.model)
        drafters: dict[str, Drafter] = {"ngram": NgramDrafter(), SHORT: NgramDrafter(HINT)}
        if self.model.mtp is not None:
            # weak: a sequence that is dropped must free its memory now, not when cycles are collected
            owner = weakref.ref(sequence)
            drafters["mtp"] = MtpDrafter(self.model, lambda: _alive(owner).state, self.valid_tokens)
        sequence.drafters = drafters
        sequence.budget, sequence.shadows, sequence.checks = self.budget, self.shadows, self.checks
        sequence.pacer = Pacer(self.costs, self.model.rows - 1)
        return sequence


def _alive(owner: weakref.ref[TokenSequence]) -> TokenSequence:
    sequence = owner()
    if sequence is None:
        raise RuntimeError("a drafter was used without its sequence")
    return sequence


PIECES = 256
"""Of 64 KiB, of each weights file: a layer of a large model is larger than what lies between two of them."""


def fingerprint(folder: Path) -> str:
    """SHA-256 (16 hex digits) over configuration, tokenizer, template and a sample of each weights file."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".jinja", ".safetensors")):
        digest.update(path.name.encode())
        digest.update(str(path.stat().st_size).encode())
        with path.open("rb") as file:
            # weights can be tens of gigabytes: their header, end, and pieces between them identify them well enough
            digest.update(file.read(1 << 20))
            for piece in range(1, PIECES + 1):
                file.seek(max(path.stat().st_size - (1 << 16), 0) * piece // PIECES)
                digest.update(file.read(1 << 16))
    return digest.hexdigest()[:16]


__all__ = ["EMBEDDED", "Engine", "EngineOptions", "Fault", "SamplingParams", "Turn", "TurnOptions"]


def check_device(device: str) -> None:
    """Raises ConfigError unless this build of torch can hold a tensor there."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):  # each device type fails in its own way
        raise ConfigError(
            f"device: torch {torch.__version__} cannot use {device!r} on this machine; "
            "use 'cpu', or install a build of torch that supports it"
        ) from None
