"""A response run again from its prompt, beside everything that is served: as it was, or with one thing changed.

Must not: take a kept prefix away from anybody, or leave one behind; what is run again is nobody's history.
Invariant: without a fault the tokens are those of the response, whatever drafter it has and wherever its prefix comes
from. The planted fault of the engine strikes here as it does in any turn.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from collections.abc import Sequence as Tokens
from typing import Literal

from engine.audit import AuditPlan
from engine.engine import Engine
from engine.sequence import Sequence
from engine.shadow import ShadowBudget
from engine.turn import Turn, TurnOptions


class Replay:
    """prompt: token ids; options: seed included; reuse: positions that came from a kept prefix, 0 = prefill all of it;
    forced: first tokens of the response, taken as they are.

    Not thread safe: the thread that owns the engine makes all calls, and may do other work between two of them.
    Raises as `Engine.open` does, and ValueError if `reuse` is not below the length of the prompt, or if the
    device has no room for another sequence.
    """

    def __init__(
        self, engine: Engine, prompt: Tokens[int], options: TurnOptions, *, reuse: int = 0, forced: Tokens[int] = ()
    ) -> None:
        engine.check([*prompt, *forced], options)
        if not 0 <= reuse < len(prompt):
            raise ValueError(f"reuse: must be between 0 and {len(prompt) - 1} positions, not {reuse}")
        if not engine.can_fit(options.codec, len(prompt) + len(forced)):
            raise ValueError(f"replay: there is no room for another sequence of {len(prompt) + len(forced)} tokens")
        self._engine, self._prompt, self._options = engine, list(prompt), options
        self._reuse, self._forced = reuse, list(forced)
        self._turn: Turn | None = None
        self.prefix: Literal["kept", "made", "cold"] = "cold"
        """Where the first positions came from: a sequence that is kept or in use, or one made for this run."""
        self.texts: list[str] = []
        """Of the forced tokens, one each."""

    @property
    def turn(self) -> Turn:
        """There when `prepare` has ended. It belongs to nobody: `Engine.close` must not be called with it."""
        assert self._turn is not None
        return self._turn

    def prepare(self) -> Iterator[None]:
        """Prompt and forced tokens, a chunk or a step at a time."""
        sequence = yield from self._prefix()
        plan = AuditPlan()  # its own: what is found here is no news to the engine
        plan.exact = self._engine.plan.exact
        self._turn = turn = self._engine.begin(sequence, self._prompt, self._options, plan=plan)
        if not turn.cached_tokens:
            self.prefix = "cold"
        for _ in sequence.prefill():
            yield
        width = 1 if self._options.drafter == "none" else sequence.model.rows
        for at in range(0, len(self._forced), width):
            self.texts += turn.force(self._forced[at : at + width])
            yield

    def _prefix(self) -> Generator[None, None, Sequence]:
        """A sequence that holds the reused positions, as far as they can be had."""
        empty = self._empty()
        if not self._reuse:
            return empty
        # the last one stays pending, so this reuses what was reused then and nothing behind it
        part = self._prompt[: self._reuse + 1]
        if self._engine.prefixes.fork(part, self._options.codec, empty):
            self.prefix = "kept"
            return empty
        source = self._empty()
        source.begin(part)
        for _ in source.prefill():
            yield
        if length := source.reusable(part):
            self.prefix = "made"
            return source.fork(length, empty)
        return empty

    def _empty(self) -> Sequence:
        """Keeps the rules of the engine's sequences and none of its books."""
        sequence = self._engine.prefixes.make()
        sequence.checks = None
        if self._engine.shadows is not None:
            sequence.shadows = ShadowBudget(self._engine.shadows.limit)
        sequence.use(self._options.codec)
        return sequence
