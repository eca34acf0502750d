"""In which mode a response starts: the wanted one where it is trusted and no breaker is open, else the next safer one.

Must not: count tokens or look into a request; a context length is an argument.
Invariant: plain decoding in full precision is always trusted, so there always is an answer.

A mode is trusted up to the context that it was qualified for; without a qualification, up to `ceiling_tokens`. The
answer is for the length of the prompt; `Start.limit` says how long a response may grow before it would be another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from policies.accusation import Axis
from policies.breaker import EDGES, Breaker
from policies.ladder import safer
from policies.modes import PLAIN, DecodeMode
from policies.qualification import Ceiling, Qualification


@dataclass(frozen=True, slots=True)
class Served:
    """What is served: the model's fingerprint, its tool format and its context window in tokens."""

    fingerprint: str
    tool_format: str
    window: int


@dataclass(frozen=True, slots=True)
class Distrust:
    """Why a mode is not used at some context length. axis: the half of it that is accused; None = it is merely not
    known to be sound."""

    why: str
    axis: Axis | None


@dataclass(frozen=True, slots=True)
class Trust:
    """qualification: None = there is none, or it was voided. ceiling_tokens: where there is none; 0 = everywhere, or
    nowhere if there is one that was voided. void: why it was; empty if it was not."""

    served: Served
    qualification: Qualification | None = None
    ceiling_tokens: int = 0
    void: str = ""

    def ceiling(self, mode: DecodeMode) -> Ceiling:
        """Up to how many tokens `mode` is trusted."""
        if mode == PLAIN:
            return Ceiling(self.served.window)
        if self.qualification is not None:
            return self.qualification.ceiling(mode)
        if self.void and not self.ceiling_tokens:
            return Ceiling(0, f"trust.qualification is void: {self.void}")
        if 0 < self.ceiling_tokens < self.served.window:
            return Ceiling(self.ceiling_tokens, f"trust.ceiling_tokens is {self.ceiling_tokens}")
        return Ceiling(self.served.window)

    def distrust(self, mode: DecodeMode, context: int, breaker: Breaker) -> Distrust | None:
        """None: `mode` may serve so many tokens of context. An open breaker is named before a ceiling."""
        if mode == PLAIN:
            return None
        served = self.served
        found = breaker.blocking(served.fingerprint, str(mode), context, served.tool_format)
        if found is not None:
            key, record = found
            state = "open" if record.state == "open" else "half open"
            return Distrust(f"the breaker {_short(str(key))} is {state}", record.axis)
        ceiling = self.ceiling(mode)
        if context > ceiling.tokens:
            return Distrust(f"{mode} is trusted up to {ceiling.tokens} tokens ({ceiling.why})", None)
        return None


@dataclass(frozen=True, slots=True)
class Limit:
    """A mode is used up to so many tokens of context, beyond them `mode` is."""

    tokens: int
    mode: DecodeMode


@dataclass(frozen=True, slots=True)
class Start:
    """mode: to start in. why: the wanted mode is not used; empty if it is. limit: None = it may be used to the end of
    the window; so if there is none at 0 tokens, nobody has to count those of a prompt."""

    mode: DecodeMode
    why: str = ""
    limit: Limit | None = None


def start_mode(
    wanted: DecodeMode,
    context: int,
    trust: Trust,
    breaker: Breaker,
    possible: Collection[str] = (),
    fits: Callable[[DecodeMode], bool] = lambda _: True,
) -> Start:
    """possible: modes of the backend, empty = all. fits: whether a mode's cache has room for this context.

    Where not even plain decoding has room, the wanted codec stays, without drafts: it is what can be served at all.
    """
    window = trust.served.window
    if trust.ceiling(wanted).tokens >= window and trust.distrust(wanted, max(window, context), breaker) is None:
        return Start(wanted)  # as nearly always: nothing speaks against it at any length
    mode, why = _choose(wanted, context, trust, breaker, possible, fits)

    def with_room(tokens: int) -> DecodeMode:
        return _choose(wanted, tokens, trust, breaker, possible, lambda _: True)[0]

    turns = [turn for turn in _turns(wanted, trust) if turn > context]
    later = [with_room(turn) for turn in turns]
    first = next((i for i, other in enumerate(later) if other != with_room(context)), None)
    if first is None:
        return Start(mode, why)
    # a response changes its mode once, so into one that lasts
    lasts = all(other == later[first] for other in later[first:])
    return Start(mode, why, Limit(turns[first] - 1, later[first] if lasts else PLAIN))


def _choose(
    wanted: DecodeMode,
    context: int,
    trust: Trust,
    breaker: Breaker,
    possible: Collection[str],
    fits: Callable[[DecodeMode], bool],
) -> tuple[DecodeMode, str]:
    distrust = trust.distrust(wanted, context, breaker)
    if distrust is None:
        return wanted, ""
    for mode in rungs(wanted, distrust.axis):
        known = not possible or str(mode) in possible
        if known and fits(mode) and trust.distrust(mode, context, breaker) is None:
            return mode, distrust.why
    codec_alone = DecodeMode("none", wanted.codec)
    return codec_alone, f"{distrust.why}, and a full cache has no room for {context} tokens"


def rungs(mode: DecodeMode, axis: Axis | None) -> list[DecodeMode]:
    """What to try instead: the ladder's next rung for what is accused, then plain. Where nothing is accused, one half
    alone may be known to be sound: the exact cache is tried first."""
    halves = [DecodeMode(mode.drafter, "full"), DecodeMode("none", mode.codec)] if axis is None else [safer(mode, axis)]
    return [each for each in dict.fromkeys((*halves, PLAIN)) if each is not None and each != mode]


def _turns(wanted: DecodeMode, trust: Trust) -> list[int]:
    """Context lengths at which the answer may change, rising: one beyond each edge and ceiling."""
    modes = (wanted, *rungs(wanted, None))
    edges = {*EDGES, *(trust.ceiling(mode).tokens for mode in modes)}
    return sorted(edge + 1 for edge in edges if edge < trust.served.window)


def _short(key: str) -> str:
    """Without format and fingerprint, which do not change while a server runs."""
    return key.partition(":")[0]
