"""One response: prefill the prompt, then draft, verify, sample and commit, step by step.

Must not: choose a mode, judge the text, or talk to a client; it is told and it reports.
Invariant: the tokens do not depend on the drafter. Verification is equality with the token that plain decoding
samples at that absolute position, so any drafter, any draft length and any switch give the same stream.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from engine.audit import Auditor, AuditPlan, Step
from engine.cache_audit import CacheAudit, judged
from engine.codecs.spec import FULL
from engine.constraint import ChosenFrom, Constraint, Filtered, cut, filtered
from engine.detokenizer import StreamDetokenizer
from engine.drafting import Draft, Drafting
from engine.fallback import fall_back
from engine.faults import Fault
from engine.model import Rows
from engine.penalties import Penalties
from engine.planted_steps import PlantedSteps
from engine.planting import Planted
from engine.reports import EndReason, RewindReport, ShadowReport, StepReport, TokenReport
from engine.sampler import MAX_TOP, Choice, SamplingParams, choose, pick
from engine.sequence import Sequence
from engine.shadow_check import ShadowCheck
from engine.stops import StopMatcher
from engine.tokenizer import Tokenizer
from engine.verify import accepted_run


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """How one response is generated.

    drafter: `none`, `ngram`, `mtp` or `mtp+ngram` (n-gram first, MTP where it has nothing or a mere hint), or the name
    of any other drafter of the sequence. max_draft: most draft tokens per step (capped by the step width; how many pay
    is up to the sequence's pacer). audit_every: recompute the first verify step and then one in so many; 0 = never.
    audit_share: most of the engine's time for that, 1 = whatever it takes (engine.audit).
    max_tokens: None = up to the context window. logprobs: how many of the likeliest tokens are reported with each
    token, at most 20. constraint: the state before the first token, None = everything is allowed. codec: how the KV
    cache is stored, see engine.codecs.spec; tools: whether the response may call tools, which rules some codecs out.
    shadow_every: compute a position anew from a clean cache after so many generated tokens; 0 = never. See
    `engine.shadow_check` for the cost.
    """

    sampling: SamplingParams = field(default_factory=SamplingParams)
    drafter: str = "none"
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    max_draft: int = 7
    audit_every: int = 16
    audit_share: float = 1.0
    logprobs: int = 0
    constraint: Constraint | None = None
    codec: str = FULL
    tools: bool = False
    shadow_every: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError that names the field."""
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens: must be at least 1, not {self.max_tokens}")
        if "" in self.stops:
            raise ValueError("stops: a stop string must not be empty")
        if not 0 <= self.logprobs <= MAX_TOP:
            raise ValueError(f"logprobs: must be between 0 and {MAX_TOP}, not {self.logprobs}")


class Turn:
    """Generates one response on a sequence. Not thread safe: the worker thread alone calls it."""

    def __init__(
        self,
        sequence: Sequence,
        prompt: Tokens[int],
        tokenizer: Tokenizer,
        options: TurnOptions,
        fault: Fault | None = None,
        marks: Tokens[int] = (),
        plan: AuditPlan | None = None,
    ) -> None:
        """plan: of the engine, None = this turn is audited as an engine's first one."""
        self.sequence = sequence
        self.tokenizer = tokenizer
        self.options = options
        self.fault = fault
        self._planted, self._planted_steps = Planted(fault), PlantedSteps(fault)
        plan = plan or AuditPlan()
        # a method of ours would make a cycle, and the caches would outlive the turn until it is collected
        written = self._planted.in_reference
        self._auditor = Auditor(sequence.model, options.audit_every, plan, written, options.audit_share)
        self._cache_audit = CacheAudit()
        self._shadow = ShadowCheck(sequence.model, tokenizer.vocab_size)
        self._next_shadow = options.shadow_every
        self.drafter = options.drafter
        self.prompt_tokens = len(prompt)
        self.penalties = Penalties(options.sampling, tokenizer.vocab_size, prompt, sequence.model.device)
        self.cached_tokens = sequence.begin(prompt, marks)
        if self.cached_tokens:
            self._auditor.begin(sequence.state, prompt)
        self._drafting = Drafting(sequence)
        self._constraint = None if options.constraint is None else options.constraint.clone()
        self.ended = False
        self.closed = False
        self._restart_text()

    @property
    def generated(self) -> list[int]:
        """Token ids generated so far, including an end-of-turn token."""
        return self.sequence.tokens[self.prompt_tokens :]

    def step(self) -> StepReport:
        """Decodes one step of this turn alone: 1..rows tokens. See `propose`."""
        started = time.perf_counter()
        draft = self.propose()
        rows = self.sequence.decode(draft.tokens, self.fault)
        return self.accept(draft, rows, started)

    def propose(self) -> Draft:
        """The first half of a step: what to verify. Must not be called after a report that carried `end`."""
        if self.ended:
            raise RuntimeError("the turn has ended; rewind it before another step")
        self._planted.after_prefill(self.sequence.state.kv, self.prompt_tokens - 1)
        draft = self._drafting.ask(self.drafter, min(self._room() - 1, self.options.max_draft))
        drafts = draft.tokens
        if self._constraint is not None:
            drafts = cut(self._constraint, drafts)
        never = self.tokenizer.special_ids - self.tokenizer.eos_ids
        drafts = self._planted_steps.drafted(drafts, never)
        self._cache_audit.arm(self.sequence.state.kv, alone=not drafts)
        return Draft(draft.source, drafts)

    def accept(self, draft: Draft, rows: Rows, started: float) -> StepReport:
        """The second half: samples from the rows that were decoded for `draft`, commits what agrees, and reports.

        started: `time.perf_counter()` when the step began.
        """
        sequence, drafts = self.sequence, draft.tokens
        position = len(self.generated)
        first = len(sequence.tokens)
        rows = self._planted.in_rows(rows, position)
        found = self._choose(rows.logits, first, drafts)
        choice = self._taken(found.choice, drafts, rows.logits)
        shadow = self._shadow_check(position, rows.logits[0])
        cache = self._cache_audit.look(sequence.state.kv, sequence.length)
        accepted = accepted_run(choice.ids, drafts)
        new, tokens, end, stop = self._cut(choice, accepted + 1)
        dead = self._drafting.judge(draft, accepted, new)
        block = [sequence.tokens[-1], *new[:-1]]
        chosen = partial(self._chosen, first=first, new=new, replaced=found.replaced)
        step = Step(block, rows, new, draft.source, len(drafts), found.choice.own, chosen)
        self._auditor.before_commit(sequence.state, step, asked=cache is not None and cache.misread)
        cache = judged(cache, self._auditor, sequence.model, sequence.state, block)
        sequence.sound = sequence.sound and (cache is None or not cache.faults)
        self._planted_steps.before_commit(sequence.state, len(new))
        sequence.commit(new, rows.hidden[: len(new)], speculative=bool(drafts))
        self._planted_steps.after_commit(sequence.state)
        self._planted.after_commit(sequence.state.kv, sequence.length, len(new), position)
        audit = self._auditor.after_commit(sequence.state)
        self.penalties.extend(new)
        self.ended = end is not None
        return StepReport(
            position=position,
            tokens=tokens,
            source=sequence.drafters[draft.source].name if drafts else "none",
            drafted=len(drafts),
            accepted=min(accepted, len(new)),
            milliseconds=(time.perf_counter() - started) * 1e3,
            context=sequence.length,
            audit=audit,
            end=end,
            stop_sequence=stop,
            tail=self._flush_text() if end in ("stop", "length") else "",
            dead_drafter=dead,
            filtered=sum(row < len(new) for row in found.replaced),
            dead_end=found.dead_end is not None and found.dead_end < len(new),
            expected=tuple(p for p in choice.expected[: len(new)] if p is not None),
            shadow=shadow,
            cache=cache,
        )

    def _choose(self, logits: Tensor, first: int, drafts: list[int]) -> Filtered:
        """The tokens of the rows, under the constraint if there is one."""
        sampling, valid, top = self.options.sampling, self.tokenizer.vocab_size, self.options.logprobs
        adjusted = self.penalties.adjust(logits, drafts)
        positions = range(first, first + len(drafts) + 1)
        if self._constraint is None:
            taken = self._planted.judged(logits if adjusted is None else adjusted, drafts, sampling, valid)
            return Filtered(choose(logits, positions, sampling, valid, adjusted, top, taken, drafts))
        choice = choose(logits, positions, sampling, valid, adjusted, top)
        return filtered(self._constraint, choice, drafts, ChosenFrom(logits, first, sampling, valid, adjusted, top))

    def force(self, tokens: Tokens[int]) -> list[str]:
        """Takes 1..rows tokens as its own, through one decode step, and returns the text of each.

        What a fault does to a step it does to this one. Raises ValueError for a token that ends a turn.
        """
        new, sequence, position = list(tokens), self.sequence, len(self.generated)
        if ending := self.tokenizer.eos_ids.intersection(new):
            raise ValueError(f"forced: token {min(ending)} ends a turn")
        self._planted.after_prefill(sequence.state.kv, self.prompt_tokens - 1)
        rows = sequence.decode(new[:-1], self.fault)
        self._planted_steps.before_commit(sequence.state, len(new))
        sequence.commit(new, rows.hidden, speculative=len(new) > 1)
        self._planted_steps.after_commit(sequence.state)
        self._planted.after_commit(sequence.state.kv, sequence.length, len(new), position)
        self.penalties.extend(new)
        if self._constraint is not None:
            for token in new:
                self._constraint.advance(token)
        return [self._text(token)[0] for token in new]

    def rewind(
        self, position: int, drafter: str, *, trusted: bool, codec: str | None = None, clean: bool = False
    ) -> RewindReport:
        """Keeps the first `position` generated tokens and continues with `drafter`; works after the end too.

        trusted: rebuild the state from a point that no verify step has touched. clean: take nothing over from the
        present caches, which may be damaged. codec: `full` to leave a compressed
        cache as far as that fits (engine.fallback), None = as it is. Raises ValueError if `position` is
        not between 0 and the number of generated tokens, or is behind the last token of a turn that has ended.
        """
        generated = len(self.generated)
        if not 0 <= position <= generated:
            raise ValueError(f"cannot rewind to generated token {position}: there are {generated}")
        if self.ended and position == generated:
            raise ValueError(f"cannot rewind to generated token {position}: the turn ended there; keep fewer tokens")
        started = time.perf_counter()
        discarded = self.generated[position:]
        sequence, length = self.sequence, self.prompt_tokens + position - 1
        back = fall_back(sequence, length, codec or sequence.codec, trusted=trusted, clean=clean)
        self._cache_audit = CacheAudit()
        self.penalties.forget(discarded)
        if self.options.constraint is not None:
            self._constraint = self.options.constraint.clone()
            for token in self.generated:
                self._constraint.advance(token)
        self.drafter = drafter
        self._shadow.reset()
        self._auditor.rewound()
        self._next_shadow = position + self.options.shadow_every
        self.ended = False
        self._restart_text()
        milliseconds = (time.perf_counter() - started) * 1e3
        return RewindReport(position, len(discarded), back.rebuilt, milliseconds, back.level, sequence.codec)

    def let_go(self) -> None:
        """No step follows: frees the states that it was to be compared with."""
        self._auditor.rewound()
        self._shadow.reset()

    def _room(self) -> int:
        """Tokens that may still be generated; at least 1 while the turn has not ended."""
        room = self.sequence.model.config.max_context - len(self.sequence.tokens)
        if self.options.max_tokens is not None:
            room = min(room, self.options.max_tokens - len(self.generated))
        return max(room, 1)

    def _chosen(self, logits: Tensor, *, first: int, new: Tokens[int], replaced: Tokens[int]) -> list[int | None]:
        """What the sampler chooses from recomputed rows; None where the constraint has chosen. The new tokens are not
        part of the history yet."""
        adjusted = self.penalties.adjust(logits, new[:-1])
        positions = range(first, first + len(new))
        ids = pick(logits, positions, self.options.sampling, self.tokenizer.vocab_size, adjusted).tolist()
        return [None if row in replaced else int(token) for row, token in enumerate(ids)]

    def _taken(self, choice: Choice, drafts: list[int], logits: Tensor) -> Choice:
        """The choice as it is, unless a fault is planted that strikes here."""
        if self.fault is not Fault.FLIPPED_ARGUMENT:
            return choice
        run, special = accepted_run(choice.ids, drafts) + 1, self.tokenizer.special_ids

        def text(more: Tokens[int]) -> str:
            return self.tokenizer.decode([*self.generated, *more])

        ids = self._planted_steps.chosen(choice.ids, run, logits[:, : self.tokenizer.vocab_size], text, special)
        return replace(choice, ids=ids)

    def _shadow_check(self, position: int, logits: Tensor) -> ShadowReport | None:
        """logits: of the step's first row, which saw nothing but what is committed."""
        checked, self.sequence.checked = self.sequence.checked, None
        if checked is not None:  # the codes against the full rows, at the end of the prompt
            return ShadowReport(position, checked.top1, False, checked.kl, checked.doubt, checked.milliseconds)
        every = self.options.shadow_every
        if not every or position < self._next_shadow:
            return None
        self._next_shadow = position + every
        try:
            return self._shadow.check(self.sequence, position, logits)
        except torch.OutOfMemoryError:  # no room for a second state
            self._shadow.reset()
            return None

    def _cut(
        self, choice: Choice, count: int
    ) -> tuple[list[int], tuple[TokenReport, ...], EndReason | None, str | None]:
        """Cuts the first `count` sampled tokens where the response ends, be it inside an accepted run."""
        new: list[int] = []
        reports: list[TokenReport] = []
        end: EndReason | None = None
        stop: str | None = None
        room = self._room()
        for index in range(count):
            token = choice.ids[index]
            new.append(token)
            if token in self.tokenizer.eos_ids:
                end = "stop"
                break
            text, stop = self._text(token)
            if stop is not None:
                end = "stop_sequence"
            elif len(new) >= room:
                end = "length"
            reports.append(
                TokenReport(
                    token,
                    text,
                    choice.logprob[index],
                    choice.top1_prob[index],
                    choice.margin[index],
                    choice.entropy[index],
                    choice.finite[index],
                    choice.top[index],
                    choice.drawn[index],
                )
            )
            if end is not None:
                break
        return new, tuple(reports), end, stop

    def _text(self, token: int) -> tuple[str, str | None]:
        piece = self._detokenizer.feed(token)
        if not self.options.stops:
            return piece, None
        return self._stops.feed(piece)

    def _flush_text(self) -> str:
        piece = self._detokenizer.flush()
        if not self.options.stops:
            return piece
        safe, _ = self._stops.feed(piece)
        return safe + self._stops.flush()

    def _restart_text(self) -> None:
        self._detokenizer = StreamDetokenizer(self.tokenizer)
        self._stops = StopMatcher(self.options.stops)
        for token in self.generated:
            self._text(token)
