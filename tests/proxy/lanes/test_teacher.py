"""Teacher forcing: scores of exactly the tokens that were given, on two dialects, or none at all."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.lanes.asking import Asker, Target, Unanswered
from proxy.lanes.heard import hear
from proxy.lanes.teacher import Score, score
from proxy.lanes.trials import body_for
from tests.proxy.lanes.upstreams_of import able, at, serving
from tests.upstreams.server import Upstream


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_a_servers_own_tokens_are_its_likeliest(kind: Any) -> None:
    async with Upstream(kind, {"m": able()}).running() as up, Asker(at(up)) as asker:
        heard = await hear(asker, body_for("m", "Repeat the fox.", 60, return_token_ids=True))
        prompt = heard.prompt_ids or [*up_prompt(up)]
        right = await score(asker, kind, "m", [*prompt, *heard.token_ids], len(prompt))
        wrong = await score(asker, kind, "m", [*prompt, *reversed(heard.token_ids)], len(prompt))
    assert [each.id for each in right] == heard.token_ids
    assert all(each.id == each.best and each.logprob == each.best_logprob for each in right)
    assert any(each.best_logprob - each.logprob > 1 for each in wrong)


def up_prompt(up: Upstream) -> tuple[int, ...]:
    from tests.upstreams.answers import PROMPTS

    return next(ids for ids, asked in PROMPTS.items() if asked.body is up.chats[-1].body)


@pytest.mark.parametrize("kind", ["llamacpp", "openai"])
async def test_who_cannot_score_says_so(kind: str) -> None:
    async with Asker(Target("plain", "http://127.0.0.1:9")) as asker:
        with pytest.raises(Unanswered, match="scores no given tokens"):
            await score(asker, kind, "m", [1, 2], 1)


def vllm(*rows: Any) -> dict[str, Any]:
    return {"choices": [{"prompt_logprobs": list(rows)}]}


def row(**entries: float) -> dict[str, Any]:
    return {name[1:]: {"logprob": value} for name, value in entries.items()}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"choices": []},
        {"choices": [{"prompt_logprobs": None}]},
        vllm(None, row(_2=-0.5)),  # one too few
        vllm(None, row(_2=-0.5), row(_9=-0.5)),  # without the prompt's own
        vllm(None, row(_2=-0.5), {"3": {"logprob": "x"}}),
        vllm(None, [1], [2]),
    ],
)
async def test_answers_of_vllm_that_are_none(answer: Any) -> None:
    async with serving(v1_completions=answer) as url, Asker(Target("plain", url)) as asker:
        with pytest.raises(Unanswered):
            await score(asker, "vllm", "m", [1, 2, 3], 1)


async def test_the_likeliest_is_found_beside_the_prompts_own() -> None:
    answer = vllm(None, row(_2=-0.1), row(_3=-2.0, _7=-0.2))
    async with serving(v1_completions=answer) as url, Asker(Target("plain", url)) as asker:
        assert await score(asker, "vllm", "m", [1, 2, 3], 2) == (Score(3, -2.0, 7, -0.2),)


def sglang(own: Any, top: Any) -> dict[str, Any]:
    return {"meta_info": {"input_token_logprobs": own, "input_top_logprobs": top}}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"meta_info": None},
        {"meta_info": [1]},
        sglang([[None, 2, None], [-0.5, 3, None]], [None]),
        sglang([[None, 2, None], ["x", 3, None]], [None, [[-0.5, 3, None]]]),
        sglang([[None, 2, None], [-0.5, 4, None]], [None, [[-0.5, 4, None]]]),  # other tokens
    ],
)
async def test_answers_of_sglang_that_are_none(answer: Any) -> None:
    async with serving(generate=answer) as url, Asker(Target("plain", url)) as asker:
        with pytest.raises(Unanswered):
            await score(asker, "sglang", "m", [1, 2, 3], 2)


async def test_sglang_asks_from_the_token_before() -> None:
    answer = sglang([[None, 2, None], [-1.5, 3, None]], [None, [[-0.5, 7, None]]])
    async with serving(generate=answer) as url, Asker(Target("plain", url)) as asker:
        assert await score(asker, "sglang", "m", [1, 2, 3], 2) == (Score(3, -1.5, 7, -0.5),)
