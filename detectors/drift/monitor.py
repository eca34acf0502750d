"""All drift detectors of one response behind one call per step.

Must not: import what a step is; it reads the fields that it names below, None = this backend does not tell.
Invariant: a response has its own monitor and `rewound` makes it new; only what `DriftMemory` holds lives on.

The exactness audit and the check for numbers that are none are in `detectors.audit`: one occurrence convicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from detectors.drift.cache import CacheHealth, CacheNumbers
from detectors.drift.calibration import Calibration
from detectors.drift.collapse import Collapse
from detectors.drift.drafting import DeadDrafter, DraftersAlive, Saturation
from detectors.drift.memory import DriftMemory
from detectors.drift.settings import DEFAULT, DriftSettings
from detectors.finding import Finding, Grade

DETERMINISTIC = frozenset({"ngram"})
"""Drafters whose guess depends on the text alone, so that its probability is that of its acceptance."""


class DrawnNumbers(Protocol):
    """Of the distribution that a token was drawn from, after temperature, penalties and filters; nats."""

    @property
    def logprob(self) -> float: ...
    @property
    def entropy(self) -> float: ...
    @property
    def variance(self) -> float: ...


class TokenNumbers(Protocol):
    """Of the model's own distribution. drawn: None = greedy, or a constraint chose."""

    @property
    def id(self) -> int: ...
    @property
    def top1_prob(self) -> float | None: ...
    @property
    def margin(self) -> float | None: ...
    @property
    def entropy(self) -> float | None: ...
    @property
    def drawn(self) -> DrawnNumbers | None: ...


class ShadowNumbers(Protocol):
    """A position computed again. position: of the token that it predicts; identical: in every bit; kl in nats; doubt:
    1 - sum p^2 of the clean distribution."""

    @property
    def position(self) -> int: ...
    @property
    def agrees(self) -> bool: ...
    @property
    def identical(self) -> bool: ...
    @property
    def kl(self) -> float: ...
    @property
    def doubt(self) -> float: ...


class StepNumbers(Protocol):
    """One step. expected: probability of each judged draft, empty = unknown; dead_drafter: whom the engine itself has
    given up."""

    @property
    def source(self) -> str: ...
    @property
    def drafted(self) -> int: ...
    @property
    def accepted(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def expected(self) -> tuple[float, ...]: ...
    @property
    def shadow(self) -> ShadowNumbers | None: ...
    @property
    def dead_drafter(self) -> str | None: ...
    @property
    def cache(self) -> CacheNumbers | None: ...


class DriftMonitor:
    """codec: of the KV cache; memory: shared by all responses; exact: the device gives the same bits for the same
    work, so that a lossless codec's clean recomputation must be identical."""

    def __init__(
        self,
        codec: str,
        memory: DriftMemory | None = None,
        *,
        exact: bool = False,
        settings: DriftSettings = DEFAULT,
    ) -> None:
        self._settings = settings
        self._memory = DriftMemory(settings) if memory is None else memory
        self._alive = DraftersAlive(settings)
        self._exact = exact
        self.rewound(codec)

    def rewound(self, codec: str) -> None:
        """The response goes on from an earlier token, in a mode with this codec: what was drawn before is drawn again
        with the same noise, so it counts no more."""
        self._codec = codec
        self._cache = CacheHealth(codec, self._settings)
        self._calibration = Calibration(self._settings)
        self._collapse = Collapse(self._settings)
        self._saturation = Saturation(self._settings)
        self.dead: list[DeadDrafter] = []
        """Performance events, to be counted by the owner."""

    @property
    def saturated(self) -> bool:
        """See `Saturation`."""
        return self._saturation.saturated

    def feed(self, position: int, tokens: Sequence[TokenNumbers], step: StepNumbers) -> Finding | None:
        """Takes one step; the gravest finding about it, the first of equally grave ones.

        A step is judged as a whole, before its tokens are taken in: a finding begins at its first token or earlier.
        """
        dead = self._alive.feed(step.source, step.drafted, step.accepted) if step.drafted else None
        if step.dead_drafter is not None:
            dead = DeadDrafter(step.dead_drafter, self._settings.dead_drafts)
        if dead is not None:
            self.dead.append(dead)
        known = [token.entropy for token in tokens if token.entropy is not None]
        if step.drafted and known:
            self._saturation.feed(step.accepted, sum(known) / len(known))
        if self._is_plain(tokens, step):
            return None
        found = [
            *self._stored(position, step),
            *self._tokens(position, tokens),
            *self._drafts(position, step),
            *self._clean(step),
        ]
        worst = max(found, key=lambda finding: finding.grade, default=None)
        return None if worst is None else replace(worst, began=min(worst.began, position))

    def _is_plain(self, tokens: Sequence[TokenNumbers], step: StepNumbers) -> bool:
        """Nothing in this step is looked at: most are of this kind, so the looking is not begun."""
        if step.cache is not None or step.shadow is not None or step.expected or self._collapse.is_open:
            return False
        return all(token.drawn is None for token in tokens)

    def take_dead(self) -> list[DeadDrafter]:
        """Performance events since the last call."""
        dead, self.dead = self.dead, []
        return dead

    def called(self, position: int, mode: str, context: int, valid: bool) -> Finding | None:
        """Takes a tool call that was judged; see `ToolValidity`."""
        return self._memory.validity.feed(position, mode, context, valid)

    def corroborated(self, finding: Finding) -> Finding:
        """A loop's finding with what acceptance adds to it."""
        if not self.saturated or not finding.detector.startswith(("loop.", "struct.")):
            return finding
        return replace(finding, evidence={**finding.evidence, "saturated": self._saturation.acceptance})

    def _stored(self, position: int, step: StepNumbers) -> list[Finding]:
        found = None if step.cache is None else self._cache.feed(position, step.cache)
        return [] if found is None else [found]

    def _tokens(self, position: int, tokens: Sequence[TokenNumbers]) -> list[Finding]:
        found: list[Finding | None] = []
        for at, token in enumerate(tokens, position):
            if token.top1_prob is not None and token.margin is not None and token.entropy is not None:
                found.append(self._collapse.feed(at, token.id, token.top1_prob, token.margin, token.entropy))
            if token.drawn is not None:
                drawn = token.drawn
                found.append(self._calibration.token(at, drawn.logprob, drawn.entropy, drawn.variance))
        return [finding for finding in found if finding is not None]

    def _drafts(self, position: int, step: StepNumbers) -> list[Finding]:
        if step.source not in DETERMINISTIC:
            return []
        found = [
            self._calibration.draft(position + index, expected, index < step.accepted)
            for index, expected in enumerate(step.expected)
        ]
        return [finding for finding in found if finding is not None]

    def _clean(self, step: StepNumbers) -> list[Finding]:
        sample = step.shadow
        if sample is None:
            return []
        place = sample.position, self._codec, step.context
        found = self._memory.agreement.feed(*place, sample.agrees)
        diverges = self._memory.divergence.feed(*place, sample.kl, sample.doubt)
        if self._exact and self._codec == "full" and not sample.identical:
            evidence = {"kl": sample.kl, "agrees": sample.agrees}
            reason = "a clean recomputation gives other bits"
            return [Finding("drift.shadow", Grade.FALLBACK, "engine", sample.position, 0, reason, evidence)]
        return [each for each in (diverges, found) if each is not None]
