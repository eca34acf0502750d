"""What it takes to run a response again up to the point where something tripped.

Must not: decide whether it is kept (that is the store's, which keeps it only when asked to).
Invariant: `Capture.parse(capture.plain()) == capture`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from policies.modes import DecodeMode
from proxy.conversation import ChatRequest, Decoding, Demands, Message, PastCall, Sampling, Tool


@dataclass(frozen=True, slots=True)
class Capture:
    """request: as it was admitted. mode: that was decoded in until the trip. seed: that was drawn with.

    prompt_ids: the rendered prompt. cached_tokens: how many of them came from a kept prefix, the rest was prefilled.
    kept_ids: tokens of the response that stood before the rewind's target (all of them without a rewind); lost_ids:
    those after it, as they were decoded; `policies.blame.END_OF_TURN` and the like are not among them.
    modes: (index of the response's first token, decode mode) of each stretch of kept_ids.
    response: the text of kept_ids and lost_ids. redacted: kinds of secrets that were taken out; then there are no ids.
    """

    request: ChatRequest
    mode: DecodeMode
    seed: int
    prompt_ids: tuple[int, ...]
    cached_tokens: int
    kept_ids: tuple[int, ...]
    lost_ids: tuple[int, ...] = ()
    modes: tuple[tuple[int, DecodeMode], ...] = ()
    response: str = ""
    redacted: tuple[str, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Can it be replayed to the token?"""
        return bool(self.prompt_ids) and not self.redacted

    def plain(self) -> dict[str, Any]:
        """JSON data."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # `asdict` copies each token id
        modes = [[at, str(mode)] for at, mode in self.modes]
        request = asdict(self.request)
        del request["passed"]  # there may be cookies among them
        return {**values, "request": request, "mode": str(self.mode), "modes": modes}

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> Capture:
        """From `plain()`, also after a way through JSON. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(
            request=_request(plain["request"]),
            mode=DecodeMode.parse(plain["mode"]),
            seed=int(plain["seed"]),
            prompt_ids=tuple(plain["prompt_ids"]),
            cached_tokens=int(plain["cached_tokens"]),
            kept_ids=tuple(plain["kept_ids"]),
            lost_ids=tuple(plain["lost_ids"]),
            modes=tuple((int(at), DecodeMode.parse(mode)) for at, mode in plain["modes"]),
            response=str(plain["response"]),
            redacted=tuple(plain["redacted"]),
        )


def _request(plain: Mapping[str, Any]) -> ChatRequest:
    sampling = dict(plain["sampling"])
    sampling["logit_bias"] = tuple((int(token), float(bias)) for token, bias in sampling["logit_bias"])
    return ChatRequest(
        **{
            **plain,
            "messages": tuple(_message(message) for message in plain["messages"]),
            "tools": tuple(Tool(**tool) for tool in plain["tools"]),
            "sampling": Sampling(**sampling),
            "stop": tuple(plain["stop"]),
            "decoding": Decoding(**plain["decoding"]),
            "demands": Demands(**plain["demands"]),
        }
    )


def _message(plain: Mapping[str, Any]) -> Message:
    return Message(**{**plain, "calls": tuple(PastCall(**call) for call in plain["calls"])})
