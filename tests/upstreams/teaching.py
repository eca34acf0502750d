"""Teacher forcing on a scripted server: how likely it finds the tokens of a given text. vLLM: `/v1/completions` with
`prompt_logprobs`; SGLang: `/generate` with `return_logprob`; the others have nothing of the kind.

Must not: generate more than the one token that such a request asks for.
Invariant: a token that the lane would have said itself there is the likeliest; another one is far below it, unless the
lane's `near_ties` say otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.upstreams.answers import PROMPTS, Refused, refusal, unknown_model
from tests.upstreams.lanes import SEEN, Lane, Seen
from tests.upstreams.replies import END_OF_TURN, ids_of, pieces, text_of

if TYPE_CHECKING:
    from tests.upstreams.server import Upstream

SURE, OTHER, TIE = -0.05, -6.0, -0.7


@dataclass(frozen=True, slots=True)
class Judged:
    """A token of the prompt, and the one that the lane would have said there."""

    id: int
    logprob: float
    rank: int
    best: int
    best_logprob: float


def add_routes(app: web.Application, up: Upstream) -> None:
    async def completions(request: web.Request) -> web.Response:
        seen: Seen = request[SEEN]
        name = up.lane_of(seen.body.get("model"))
        if name is None:
            return refusal(up.dialect, unknown_model(up.dialect, str(seen.body.get("model"))))
        if up.kind != "vllm" and seen.body.get("prompt_logprobs") is not None and up.kind == "openai":
            return refusal(up.dialect, Refused(400, "Unrecognized request argument supplied: prompt_logprobs"))
        if seen.body.get("stream") and seen.body.get("prompt_logprobs"):
            return refusal(up.dialect, Refused(400, "`prompt_logprobs` are not available when `stream=True`."))
        return web.json_response(_completion(up, name, up.lanes[name], seen.body))

    async def generate(request: web.Request) -> web.Response:
        (lane, *_) = up.lanes.values()
        return web.json_response(_generated(lane, request[SEEN].body))

    app.router.add_post("/v1/completions", completions)
    if up.kind == "sglang":
        app.router.add_post("/generate", generate)


def _completion(up: Upstream, name: str, lane: Lane, body: dict[str, Any]) -> dict[str, Any]:
    prompt = body.get("prompt", "")
    ids = ids_of(prompt) if isinstance(prompt, str) else tuple(prompt)
    choice: dict[str, Any] = {"index": 0, "text": ".", "logprobs": None, "finish_reason": "length"}
    if up.kind == "vllm":
        choice |= {"stop_reason": None, "prompt_logprobs": None}
        if body.get("return_token_ids") and up.new:
            choice |= {"token_ids": list(ids_of(".")), "prompt_token_ids": list(ids)}
        if body.get("prompt_logprobs") is not None:
            choice["prompt_logprobs"] = [None, *(_vllm_entry(one) for one in judged(lane, ids)[1:])]
    usage = {"prompt_tokens": len(ids), "completion_tokens": 1, "total_tokens": len(ids) + 1}
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1_764_000_000, "model": name}
    return {**head, "choices": [choice], "usage": usage}


def _vllm_entry(one: Judged) -> dict[str, Any]:
    own = {"logprob": one.logprob, "rank": one.rank, "decoded_token": text_of([one.id])}
    entry = {str(one.id): own}
    if one.best != one.id:
        entry[str(one.best)] = {"logprob": one.best_logprob, "rank": 1, "decoded_token": text_of([one.best])}
    return entry


def _generated(lane: Lane, body: dict[str, Any]) -> dict[str, Any]:
    ids = tuple(body.get("input_ids") or ids_of(body.get("text", "")))
    meta: dict[str, Any] = {
        "id": "1",
        "finish_reason": {"type": "length", "length": 1},
        "prompt_tokens": len(ids),
        "completion_tokens": 1,
        "cached_tokens": 0,
    }
    if body.get("return_logprob"):
        start = max(0, body.get("logprob_start_len", -1))
        told = judged(lane, ids)[start:]
        meta["input_token_logprobs"] = [[None if n + start == 0 else j.logprob, j.id, None] for n, j in enumerate(told)]
        if body.get("top_logprobs_num"):
            meta["input_top_logprobs"] = [
                None if n + start == 0 else [[j.best_logprob, j.best, None]] for n, j in enumerate(told)
            ]
    return {"text": ".", "output_ids": list(ids_of(".")), "meta_info": meta}


def judged(lane: Lane, ids: Sequence[int]) -> list[Judged]:
    """Every token, as the lane finds it; those of a prompt are all alike."""
    start, own = _response(lane, tuple(ids))
    found = [Judged(number, -1.0, 1, number, -1.0) for number in ids[:start]]
    apart = False
    for place, number in enumerate(ids[start:]):
        best = next(own, END_OF_TURN) if not apart else number
        apart = apart or best != number
        if best == number:
            found.append(Judged(number, SURE, 1, number, SURE))
        elif place in lane.near_ties:
            found.append(Judged(number, TIE, 2, best, TIE + 0.05))
        else:
            found.append(Judged(number, OTHER, 40, best, SURE))
    return found


def _response(lane: Lane, ids: tuple[int, ...]) -> tuple[int, Iterator[int]]:
    """Where the response begins behind the longest prompt that is known, and what the lane itself says to it."""
    for length in range(len(ids), 0, -1):
        asked = PROMPTS.get(ids[:length])
        if asked is not None:
            reply = lane.reply(asked).after(asked.prefill)
            return length, (piece.id for piece in pieces(reply, "values"))
    return len(ids), iter(())
