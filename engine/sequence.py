"""One token sequence and everything that belongs to it: its state, its history, its provenance, its drafters.

Must not: sample, or know what a turn, a request or a text is.
Invariant: a state is defined by its tokens AND by which of them were prefilled and which decoded. `provenance`
records that; every rebuild follows it, so a rebuilt state is bit-equal to the one plain decoding would have had.
The last token of `tokens` is pending: it is known, but not yet in the state (`length == len(tokens) - 1`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from collections.abc import Sequence as Tokens
from contextlib import contextmanager

from torch import Tensor

from engine.checks import CacheCheck, CacheChecks
from engine.codecs.spec import FULL, header
from engine.deltanet import INNER
from engine.drafters.base import Drafter
from engine.errors import ContextOverflow
from engine.faults import Fault
from engine.kv import KVCache
from engine.memory import Budget
from engine.model import Block, Model, Rows
from engine.pacing import Pacer
from engine.provenance import Lineage, Segment, common_prefix, prefilled, record, shortened
from engine.shadow import ShadowBudget
from engine.state import SequenceState

CHECKPOINT_EVERY = 1024
"""Prefilled tokens between two checkpoints of the recurrent state: the most that an unforeseen branch computes again.
A multiple of the inner chunk."""
RESPONSE_ROOM = 4096
"""Tokens that a response is given room for when its cache is replaced; it may grow further where memory allows."""


class Sequence:
    """Owns one `SequenceState`. Not thread safe: the worker thread alone touches it.

    speculated_from: lowest position that a step of several rows has computed (verified drafts, or a rebuild), or None.
    From there on the state is only as good as speculation is; `rewind(trusted=True)` goes back before it.
    taken_over: positions from 0 on that an earlier turn has computed. A trusted rewind computes them again, and refuses
    the sequences that share them: a wrong prefix stays wrong for everybody who takes it over (vLLM #53912).
    codec: of a state that is made anew; what the present one was written with is `state.header`.
    sound: False once its caches were found damaged; it is not reused then either.
    intact: False while something changes, and for good if an exception cut that short; never reuse it then.
    """

    def __init__(self, model: Model, drafters: Mapping[str, Drafter] | None = None, codec: str = FULL) -> None:
        self.model = model
        self.codec = codec
        self.state: SequenceState = model.new_state(codec)
        self.tokens: list[int] = []
        self.provenance: list[Segment] = []
        self.speculated_from: int | None = None
        self.taken_over = 0
        self.lineage = Lineage()
        self.intact = self.sound = True
        self.drafters: dict[str, Drafter] = dict(drafters or {})
        self._edges: set[int] = set()
        self.pacer = Pacer(depth=model.rows - 1)
        self.budget = Budget(model.device)
        self.checks: CacheChecks | None = None
        self.checked: CacheCheck | None = None
        """The newest check of this sequence that nobody has looked at."""
        self.shadows: ShadowBudget | None = None
        """Set: prompts are prefilled in full precision, coded when complete, and shadowed while there is room."""

    @property
    def length(self) -> int:
        """Committed tokens in the state."""
        return self.state.length

    @property
    def prefilled(self) -> int:
        """Positions from 0 on that were prefilled, none of them decoded."""
        return prefilled(self.provenance)

    def holds(self, codec: str) -> bool:
        """Whether the state was written by the rules of a codec, so that its prefix can be taken over."""
        return self.state.header == header(codec, self.shadows is not None)

    def reusable(self, prompt: Tokens[int]) -> int:
        """How many of this sequence's positions a new prompt can take over with the bits that prefilling it from
        nothing would give.

        That rules out what was decoded, and, where recurrent layers remember, positions without a checkpoint at an
        edge of their inner chunks. So a prompt's outcome never depends on what happens to be in the cache.
        """
        # the token after the reused part stays pending, so it must be a shared one too
        most = min(common_prefix(self.tokens, prompt) - 1, len(prompt) - 1, self.prefilled)
        if most <= 0 or (self.shadows is not None and self.state.compressed and self.state.shadow is None):
            return 0
        if not self.state.recurrent:
            return self.state.nearest(most)
        return max(c.position for c in self.state.checkpoints if c.position <= most and c.position % INNER == 0)

    def begin(self, prompt: Tokens[int], marks: Collection[int] = ()) -> int:
        """Takes a prompt that may share a prefix with the present tokens; returns how many positions are reused.

        marks: positions at which other prompts are likely to branch off (the end of system prompt and tools); they
        keep a checkpoint. After this, iterate `prefill()` until it ends. Raises ContextOverflow if the prompt leaves
        no room for a token.
        """
        if not prompt:
            raise ValueError("prompt: must hold at least one token")
        limit = self.model.config.max_context
        if len(prompt) >= limit:
            raise ContextOverflow(len(prompt), limit)
        reused = self.reusable(prompt)
        self.checked = None  # of another prompt
        with self._change():
            if reused:
                self._uncover()
                self._rewind(reused, trusted=False)
            else:
                self.state, self.lineage = self._new_state(), Lineage()
                self.provenance, self.speculated_from = [], None
                self.pacer.begin()
                for drafter in self.drafters.values():
                    drafter.begin(prompt[:1])
            self.tokens, self.taken_over = list(prompt), reused
            marked = {mark // INNER * INNER for mark in marks if INNER <= mark < len(prompt)}
            # the two last edges: the prompt that follows may differ in the last few tokens of this one
            last = (len(prompt) - 1) // INNER * INNER
            self.state.pins = frozenset({*marked, len(prompt) - 1})
            self._edges = {*marked, last, last - INNER, *range(0, len(prompt), CHECKPOINT_EVERY)}
        return reused

    def prefill(self) -> Iterator[int]:
        """Prefills what is missing, one chunk per iteration (so that a caller can stop in between); yields lengths."""
        rows = self.model.prefill_rows
        while self.length < len(self.tokens) - 1:
            start = self.length
            end = min((start // rows + 1) * rows, len(self.tokens) - 1)
            with self._change():
                hidden = self.model.prefill(self.state, self.tokens[start:end], self._edges)
                record(self.provenance, "prefill", start, end)
                self._observe(start, end, hidden)
            yield end
        self.state.checkpoint()
        self._compress()

    def fork(self, length: int, into: Sequence) -> Sequence:
        """Makes `into`, a new sequence of the same model, hold the first `length` positions, a length that `reusable`
        has named; returns it."""
        into.state, into.codec, into.lineage = self.state.fork(length), self.codec, self.lineage
        into.tokens = self.tokens[: length + 1]
        into.provenance = shortened(self.provenance, length)
        for name, drafter in into.drafters.items():
            drafter.adopt(self.drafters[name], into.tokens)
        return into

    def use(self, codec: str) -> None:
        """Chooses the codec of an empty sequence."""
        if codec != self.codec:
            self.codec = codec
            self.state = self._new_state()

    def block(self, drafts: Tokens[int] = ()) -> Block:
        """The pending token and `drafts` after it, to be decoded together with other sequences' blocks."""
        return Block(self.state, [self.tokens[-1], *drafts])

    def decode(self, drafts: Tokens[int] = (), fault: Fault | None = None) -> Rows:
        """Computes the pending token and `drafts` after it; nothing is committed."""
        return self.model.decode(self.state, [self.tokens[-1], *drafts], fault=fault)

    def commit(self, new: Tokens[int], hidden: Tensor, *, speculative: bool) -> None:
        """Takes `new` tokens as the outcome of the last `decode`: its first len(new) rows become state."""
        start = self.length
        with self._change():
            self.model.commit(self.state, len(new))
            if speculative and self.speculated_from is None:
                self.speculated_from = start
            record(self.provenance, "decode", start, start + len(new))
            self.tokens.extend(new)
            self._observe(start, start + len(new), hidden)

    def rewind(self, length: int, *, trusted: bool) -> int:
        """Makes the state hold exactly the first `length` tokens and the next one pending; returns tokens recomputed.

        trusted: rebuild from a point that neither a verify step nor an earlier turn has touched, generated tokens
        decoded one at a time. Raises ValueError if `length` is not below the number of known tokens.
        """
        self._check_known(length)
        with self._change():
            return self._rewind(length, trusted=trusted)

    @property
    def longest(self) -> int:
        """Tokens that a full cache gets room for when it replaces a compressed one."""
        return min(len(self.tokens) + RESPONSE_ROOM, self.model.config.max_context)

    def can_fit(self, codec: str, context: int) -> bool:
        """Whether this sequence's caches could be replaced by ones of `codec` with room for `context` tokens."""
        return self.budget.has_room(self.model.cache_bytes(codec, context), sum(c.nbytes for c in self.state.kv))

    def restore(self, length: int, *, trusted: bool) -> int:
        """`rewind`, with a full cache from here on: what was prefilled is computed again, what was decoded is decoded
        again. Returns tokens recomputed. Raises ValueError as `rewind` does."""
        self._check_known(length)
        with self._change():
            target, start = min(length, self.length), 0
            if not (trusted and self._refuse_prefix()) and self._uncover():
                start = self.state.nearest(min(target, self.prefilled))
                self.state.rewind(start)
                self.state.header = FULL
            else:
                pins, self.state = self.state.pins, self.model.new_state(FULL)
                self.state.pins = pins
            for cache in self.state.kv:
                cache.reserve(self.longest)
            self.codec, self.speculated_from, self.sound = FULL, None, True
            self._recompute(start, target, width=1 if trusted else self.model.rows)
            self._truncate(length)
            return target - start

    def rebuild(self, length: int) -> int:
        """`rewind`, with nothing kept of the present state: all of it is computed again by the rules of its codec,
        generated tokens one at a time. Returns tokens recomputed. Raises ValueError as `rewind` does."""
        self._check_known(length)
        with self._change():
            target = min(length, self.length)
            prompt = min(target, self.prefilled)
            pins, self.state = self.state.pins, self._new_state()
            self.state.pins = pins
            self._refuse_prefix()
            self.speculated_from, self.sound = None, True
            self._recompute(0, prompt, width=1)
            self._compress()
            self._recompute(prompt, target, width=1)
            self._truncate(length)
            return target

    def stop_quantising(self) -> None:
        """What is committed from here on is stored as computed."""
        self.state.stop_quantising()

    def _check_known(self, length: int) -> None:
        if not 0 <= length < len(self.tokens):
            raise ValueError(f"cannot rewind to {length}: {len(self.tokens)} tokens are known")

    def _new_state(self) -> SequenceState:
        """For a prompt: with full caches if they are to be coded when it is complete."""
        if self.shadows is None:
            return self.model.new_state(self.codec)
        state = self.model.new_state(FULL)
        state.header = header(self.codec, full_prefill=True)
        return state

    def _compress(self) -> None:
        """Codes a prompt that was prefilled in full precision, and keeps its rows as a shadow if there is room."""
        if self.shadows is None or self.codec == FULL or self.state.compressed:
            return
        with self._change():
            full = self.state.compress(self.model.new_caches(self.codec))
            self.state.shadow = self.shadows.keep(full, self.length)
            self._check(full)

    def _check(self, full: list[KVCache | None]) -> None:
        """Decodes the pending token with the full caches and with the codes, where the budget for checks has room."""
        if self.checks is None or not self.checks.is_due():
            return

        def row(caches: list[KVCache | None]) -> Tensor:
            state = self.state.clone()
            state.uncover(caches)
            return self.model.decode(state, self.tokens[self.length : self.length + 1]).logits[0]

        as_coded: list[KVCache | None] = [None] * len(full)
        self.checked = self.checks.compare(self.codec, self.length, lambda: row(full), lambda: row(as_coded))

    def _uncover(self) -> bool:
        """Makes a shadow the caches again, the rows behind it lost; whether there was one."""
        if self.state.shadow is None:
            return False
        self.state.uncover(self.state.shadow.restored(self.model.device))
        self.state.shadow = None
        return True

    def _prefill_again(self, position: int) -> int:
        """Makes the state hold the first `position` rows, all prefilled in full precision, as codes; returns tokens
        recomputed. A state of codes alone cannot: its raw rows may be gone, and the rows before them cannot be read."""
        start = 0
        if self._uncover():
            start = self.state.nearest(position)
            self.state.rewind(start)
        else:
            pins, self.state = self.state.pins, self._new_state()
            self.state.pins = pins
        self._recompute(start, position, width=1)
        self._compress()
        return position - start

    def _rewind(self, length: int, *, trusted: bool) -> int:
        base = target = min(length, self.length)
        coded = self.shadows is not None and self.state.compressed
        if trusted and self.speculated_from is not None:
            base = min(base, self.speculated_from)
        if trusted and self._refuse_prefix():
            pins, self.state = self.state.pins, self._new_state()
            self.state.pins = pins
        start = self.state.nearest(base)
        prompt, again = min(base, self.prefilled), 0
        if start < prompt and coded:
            again, start = self._prefill_again(prompt), prompt
        else:
            self.state.rewind(start)
        if self.speculated_from is not None and start <= self.speculated_from:
            self.speculated_from = None
        rebuilt = target - start
        if rebuilt:
            self._recompute(start, target, width=1 if trusted else self.model.rows)
        self._truncate(length)
        return rebuilt + again

    def _refuse_prefix(self) -> bool:
        """Whether the first rows came from an earlier turn, which nobody takes over any more."""
        if not self.taken_over:
            return False
        self.taken_over, self.lineage.sound, self.lineage = 0, False, Lineage()
        return True

    def _recompute(self, start: int, end: int, width: int) -> None:
        """Computes positions [start, end) again along the provenance, decoded ones `width` at a time."""
        for drafter in self.drafters.values():
            drafter.truncate(start + 1)
        for segment in self.provenance:
            lo, hi = max(segment.start, start), min(segment.end, end)
            if lo >= hi:
                continue
            if segment.kind == "prefill":
                hidden = self.model.prefill(self.state, self.tokens[lo:hi], {*self._edges, self.prefilled})
                self._observe(lo, hi, hidden)
                continue
            for at in range(lo, hi, width):
                block = self.tokens[at : min(at + width, hi)]
                if len(block) > 1 and self.speculated_from is None:
                    self.speculated_from = at
                rows = self.model.decode(self.state, block)
                self.model.commit(self.state, len(block))
                self._observe(at, at + len(block), rows.hidden)

    def _truncate(self, length: int) -> None:
        del self.tokens[length + 1 :]
        self.provenance = shortened(self.provenance, length)
        for drafter in self.drafters.values():
            drafter.truncate(length + 1)

    @contextmanager
    def _change(self) -> Iterator[None]:
        intact, self.intact = self.intact, False  # a change may be part of another one
        yield
        self.intact = intact

    def _observe(self, start: int, end: int, hidden: Tensor) -> None:
        """Rows [start, end) were committed: each predicted the token after it, which the drafters now learn."""
        following = self.tokens[start + 1 : end + 1]
        for drafter in self.drafters.values():
            drafter.extend(following, hidden[: end - start])
