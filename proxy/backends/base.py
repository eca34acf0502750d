"""The interface between the guard and whatever generates tokens, and the deltas that cross it.

Must not: import an engine or a wire format.
Invariant: a generation is pulled; nothing is decoded unless somebody awaits the next delta, so closing it stops
the device within one step, and a rewind never races with a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from detectors.finding import Finding
from detectors.parts import Part
from policies.modes import DecodeMode
from proxy.backends.errors import Trouble
from proxy.conversation import ChatRequest, Message, Tool

Rebuild = Literal["none", "trusted", "clean"]
"""How a rewind gets its state: `none` = cursor, checkpoint and logged ingredients; `trusted` = back to the newest
checkpoint that no draft-verify step has touched (at worst a new prefill of the whole prompt), from there along the
recorded provenance, generated tokens decoded one by one; `clean` = the caches are accused: the same, but nothing that
they hold is taken over, neither by this response nor, from kept prefixes of the same codec, by later ones."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have been chosen. data: its exact bytes, which may be part of a character."""

    id: int
    data: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a token was drawn from, after temperature, penalties and filters. logprob: of the token; variance: of the
    log-probability. Nats."""

    logprob: float
    entropy: float
    variance: float


class Token(NamedTuple):
    """One committed token. text: what it completes (may be empty inside a multi-byte character). A tuple,
    as it is made often.

    logprob, entropy in nats; margin = top-1 minus top-2 logit; finite: all logits were finite numbers.
    None where the backend cannot tell. drawn: None also where nothing is drawn (greedy) or a constraint may
    have chosen. The others are the model's own, before penalties, biases and filters.
    data (exact bytes) and top (the likeliest tokens, best first) are there if the request asks for `logprobs`.
    parts: what it says by channel, where an upstream has told the channels apart; None = the text says it itself.
    """

    id: int
    text: str
    logprob: float | None = None
    top1_prob: float | None = None
    margin: float | None = None
    entropy: float | None = None
    finite: bool | None = None
    data: bytes = b""
    top: tuple[Alternative, ...] = ()
    drawn: Drawn | None = None
    parts: tuple[Part, ...] | None = None


@dataclass(frozen=True, slots=True)
class Audit:
    """A verify step recomputed row by row and compared bitwise. mismatch: index of the first differing row or None;
    compared: what differed there: `rows`, `choice`, `state` or `prefix`, see engine.audit."""

    rows: int
    mismatch: int | None
    max_abs_diff: float = 0.0
    compared: str = "rows"


@dataclass(frozen=True, slots=True)
class Shadow:
    """A position computed again from a clean cache: same most likely token, same bits, KL in nats.

    doubt: 1 - sum p^2 of the clean distribution, what a divergence is measured against."""

    position: int
    agrees: bool
    identical: bool
    kl: float
    doubt: float = 1.0


@dataclass(frozen=True, slots=True)
class CacheFault:
    """A compressed KV cache that is not what it should be; a comparison, so one is proof. check: `finite`, `read-back`,
    `seal` or `reading`; layer: among the attention layers; side: keys, values or both; row: first position.
    """

    check: str
    layer: int
    side: str
    row: int
    measured: float
    limit: float


@dataclass(frozen=True, slots=True)
class Coding:
    """How well keys or values are coded, in the worst layer. cosine: mean between a vector and its code; entropy: bits
    per code, None where it was not counted."""

    bits: int
    vectors: int
    cosine: float
    entropy: float | None


@dataclass(frozen=True, slots=True)
class CacheHealth:
    """What was looked at in a compressed cache in this step. rows: newly coded; keys, values: None while there are
    none; sigma: largest predicted standard deviation of a score's error."""

    faults: tuple[CacheFault, ...]
    rows: int
    keys: Coding | None
    values: Coding | None
    sigma: float | None


@dataclass(frozen=True, slots=True)
class StepStats:
    """What one engine step reports. source: who drafted (`none`, `ngram`, `mtp`); rows = 1 + drafted.

    dead_drafter: who was switched off after this step because nothing it drafts is accepted. It costs speed only.
    filtered: tokens that a constraint put in place of what would have been sampled. expected: the probability of each
    judged draft under what its position is drawn from; empty = unknown.
    """

    mode: DecodeMode
    source: str
    drafted: int
    accepted: int
    milliseconds: float
    context: int
    audit: Audit | None = None
    dead_drafter: str | None = None
    filtered: int = 0
    expected: tuple[float, ...] = ()
    shadow: Shadow | None = None
    cache: CacheHealth | None = None


EndReason = Literal["stop", "stop_sequence", "length"]


@dataclass(frozen=True, slots=True)
class Delta:
    """Tokens committed by one step. position: index of the first of them among the response's generated tokens.

    end: set on the last delta. The end-of-turn token never appears among `tokens`.
    tail: text that only the end releases, after that of all tokens. found: what the backend itself has found wrong.
    """

    position: int
    tokens: tuple[Token, ...]
    step: StepStats
    end: EndReason | None = None
    stop_sequence: str | None = None
    tail: str = ""
    found: Finding | None = None


@dataclass(frozen=True, slots=True)
class RewindReport:
    """What a rewind cost. tokens: how many were discarded; rebuilt: how many were computed again; mode: what it goes on
    in, which keeps a compressed cache where a full one has no room; level: L0 (the cache stays as it is) to L3."""

    position: int
    tokens: int
    rebuilt: int
    milliseconds: float
    mode: DecodeMode
    level: str = "L0"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can tell and do; shown by `/ready` and stored in every incident.

    constraints: it can enforce a request's demands while decoding. ladder: the only modes that a response can go on
    in, the safest last; empty = any. lanes: of the servers behind it, what each can tell and do.
    """

    rewinds: bool
    token_ids: bool
    logprobs: bool
    audits: bool
    exactness: Literal["bitwise", "distribution", "unknown"]
    modes: tuple[str, ...] = ()
    constraints: bool = False
    ladder: tuple[str, ...] = ()
    lanes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """fingerprint: hash over weights and configuration; context_window in tokens.

    tool_format: `json`: calls come as numbered pieces, see `Token.parts`.
    opens_thinking: the chat template ends a prompt inside `<think>`, so a response begins with thinking.
    """

    id: str
    fingerprint: str
    context_window: int
    tool_format: Literal["qwen_xml", "json"] = "qwen_xml"
    opens_thinking: bool = False
    details: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """What a backend does. steps: of single responses, since the start; running, waiting: responses now."""

    steps: int
    running: int
    waiting: int


class Generation(Protocol):
    """One response in the making. Single consumer; `close` is idempotent and safe at any time.

    prompt_ids: the rendered prompt; empty where the backend cannot tell. A generation whose tokens are not the model's
    own may have `counted`, too: see `proxy.backends.counted`.
    """

    prompt_ids: tuple[int, ...]
    prompt_tokens: int
    cached_tokens: int
    prompt_ms: float
    seed: int

    async def next(self, waits: Callable[[Delta], bool] | None = None) -> Delta | None:
        """Runs one step. None after the delta that carried `end`. Raises BackendError.

        waits: keeps a step for whose sake nobody needs to be told yet; a backend for which telling is not free asks it
        about each step, on whatever thread, and runs the next one at once while it says yes. It says no to an end.
        """

    async def rewind(self, position: int, mode: DecodeMode, rebuild: Rebuild = "none") -> RewindReport:
        """Discards generated tokens from index `position` on and continues in `mode`, also after the end."""

    async def close(self) -> None:
        """Stops and releases the device; what was committed stays usable for prefix reuse."""


@dataclass(frozen=True, slots=True)
class Rerun:
    """How a response is run again. request: for sampling, stop strings and demands; the prompt is `prompt_ids`.

    reuse: positions of the prompt that come from a prefix, 0 = all of it is prefilled. filtered: under what the request
    demands. forced: first tokens of the response, taken as they are. check_every: tokens between two recomputations
    from a clean cache, 0 = none; all verify steps are audited.
    """

    request: ChatRequest
    prompt_ids: tuple[int, ...]
    seed: int
    mode: DecodeMode
    reuse: int = 0
    filtered: bool = True
    forced: tuple[int, ...] = ()
    check_every: int = 0


class Replayed(Protocol):
    """A response that is run again; single consumer, `close` is idempotent.

    prefix: where the first `reused` positions came from: a prefix that is `kept`, or one `made` for this run.
    """

    prefix: Literal["kept", "made", "cold"]
    reused: int

    async def next(self) -> Delta | None:
        """The forced tokens first, in a delta of their own, then a step each. Raises Preempted, other BackendError."""

    async def close(self) -> None:
        """Releases everything; nothing of it is kept."""


@runtime_checkable
class Replayer(Protocol):
    """What some backends can do besides."""

    async def replay(self, rerun: Rerun) -> Replayed:
        """Prefills, and stands back for clients: between two pieces of work it raises Preempted if there is one.

        Raises BackendError for what the model cannot run.
        """


class Backend(Protocol):
    """A source of generations for one model."""

    info: ModelInfo
    capabilities: Capabilities

    @property
    def trouble(self) -> Trouble | None:
        """Why nobody can be served now, though it has started."""

    async def start(self) -> None:
        """Loads and self-tests; raises BackendError with a remedy."""

    async def stop(self) -> None:
        """Releases everything; idempotent."""

    async def generate(self, request: ChatRequest, mode: DecodeMode) -> Generation:
        """Prefills the prompt. Raises ContextTooLong, BadPrompt, Overloaded."""

    async def count_tokens(self, messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> int:
        """Tokens of the rendered prompt, without touching the device."""
