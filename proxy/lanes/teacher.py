"""Teacher forcing on a lane: given tokens are scored, none of them is chosen.

Must not: be asked by a response. Invariant: the scores are of exactly the tokens that were given, or there are none.

vLLM: `/v1/completions` with a prompt of token ids and `prompt_logprobs`. SGLang: `/generate` with `logprob_start_len`.
llama.cpp scores no prompt (0c1e57098).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from proxy.lanes.asking import Asker, Unanswered, number

SCORERS = ("vllm", "sglang")


@dataclass(frozen=True, slots=True)
class Score:
    """Of one token behind those before it. best: the most likely one there. Nats, of the model's own distribution."""

    id: int
    logprob: float
    best: int
    best_logprob: float


async def score(asker: Asker, kind: str, model: str, ids: Sequence[int], start: int) -> tuple[Score, ...]:
    """Scores of ids[start:]. start: at least 1, nothing stands before the first token. Raises Unanswered."""
    if kind == "vllm":
        rows = await _vllm(asker, model, ids)
    elif kind == "sglang":
        rows = await _sglang(asker, ids, start)
    else:
        raise Unanswered(f"a server of kind {kind} scores no given tokens")
    wanted = list(ids[start:])
    rows = rows[len(rows) - len(wanted) :]
    if [row.id for row in rows] != wanted:
        raise Unanswered("it scores other tokens than were given")
    return tuple(rows)


async def _vllm(asker: Asker, model: str, ids: Sequence[int]) -> list[Score]:
    body = {
        "model": model,
        "prompt": list(ids),
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 1,
        "add_special_tokens": False,
    }
    choices = (await asker.post("/v1/completions", body)).get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    rows = first.get("prompt_logprobs")
    if not isinstance(rows, list) or len(rows) != len(ids):
        raise Unanswered("/v1/completions gives no prompt_logprobs for the tokens of its prompt")
    found = []
    for token, row in zip(ids[1:], rows[1:], strict=True):
        alternatives = [(each, _logprob(entry)) for each, entry in row.items()] if isinstance(row, dict) else []
        ranked = [(known, int(each)) for each, known in alternatives if known is not None and each.isdecimal()]
        own = next((known for known, each in ranked if each == token), None)
        if own is None:
            raise Unanswered("/v1/completions gives prompt_logprobs without the prompt's own tokens")
        best_logprob, best = max(ranked)
        found.append(Score(token, own, best, best_logprob))
    return found


async def _sglang(asker: Asker, ids: Sequence[int], start: int) -> list[Score]:
    body = {
        "input_ids": list(ids),
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
        "return_logprob": True,
        "logprob_start_len": start - 1,
        "top_logprobs_num": 1,
    }
    meta = (await asker.post("/generate", body)).get("meta_info")
    meta = meta if isinstance(meta, dict) else {}
    rows, tops = (meta.get(name) for name in ("input_token_logprobs", "input_top_logprobs"))
    if not isinstance(rows, list) or not isinstance(tops, list) or len(rows) != len(tops):
        raise Unanswered("/generate gives no input_token_logprobs")
    found = []
    for row, top in zip(rows[1:], tops[1:], strict=True):  # the first has nothing before it
        own, best = _triple(row), _triple(top[0] if isinstance(top, list) and top else None)
        if own is None or best is None:
            raise Unanswered("/generate gives input_token_logprobs that cannot be read")
        lead = max(own, best)
        found.append(Score(own[1], own[0], lead[1], lead[0]))
    return found


def _logprob(entry: Any) -> float | None:
    return number(entry.get("logprob")) if isinstance(entry, dict) else None


def _triple(row: Any) -> tuple[float, int] | None:
    if not isinstance(row, list) or len(row) < 2 or not isinstance(row[1], int):
        return None
    logprob = number(row[0])
    return None if logprob is None else (logprob, row[1])
