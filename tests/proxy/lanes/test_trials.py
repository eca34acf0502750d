"""Single trials against servers that lie in one thing each."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from proxy.lanes import trials
from proxy.lanes.asking import Asker, Target
from proxy.lanes.exposition import Exposition
from proxy.lanes.heard import Heard, Said
from proxy.lanes.identity import Identity
from proxy.lanes.trials import judge_drafts, judge_ids, judge_logprobs, judge_prefill, made_up
from tests.proxy.lanes.upstreams_of import able, at, serving
from tests.upstreams.server import Upstream

REAL, FALSE = Said(-0.4, 2), Said(0.0, 0)


def test_ids_must_be_as_many_as_tokens() -> None:
    assert judge_ids(Heard(token_ids=[1, 2, 3], usage={"completion_tokens": 3}), {}).value
    assert judge_ids(Heard(token_ids=[1, 2, 3], usage={"completion_tokens": 4}), {}).value  # the end of turn apart
    assert judge_ids(Heard(token_ids=[1, 2, 3]), {}).value
    lying = judge_ids(Heard(token_ids=[1], usage={"completion_tokens": 40}), {})
    assert not lying.value and lying.why == "1 ids came for 40 tokens"


@pytest.mark.parametrize(
    ("logprobs", "false"),
    [
        ([REAL, FALSE, FALSE, FALSE], True),
        ([FALSE, FALSE], True),
        ([REAL, REAL, REAL, FALSE], False),
        ([FALSE], False),
        ([Said(0.0, 2)] * 9, False),  # sure, and with alternatives to show for it
        ([], False),
    ],
)
def test_logprobs_that_are_made_up(logprobs: list[Said], false: bool) -> None:
    assert made_up(logprobs) == false


def test_logprobs_say_nothing_of_drafts_where_none_was_accepted() -> None:
    heard = Heard(logprobs=[REAL, FALSE, FALSE])
    assert [each.value for each in judge_logprobs(heard, {}, 0)] == [True, None]
    assert [each.value for each in judge_logprobs(heard, {}, 5)] == [True, False]
    assert [each.value for each in judge_logprobs(Heard(logprobs=[REAL] * 3), {}, 5)] == [True, True]
    assert [each.value for each in judge_logprobs(Heard(), {}, 5)] == [False, None]


def test_logprobs_must_be_of_most_tokens() -> None:
    heard = Heard(logprobs=[REAL], usage={"completion_tokens": 29})  # what llama.cpp streams beside drafts
    assert [each.value for each in judge_logprobs(heard, {}, 17)] == [True, False]
    assert [each.value for each in judge_logprobs(heard, {}, 0)] == [False, None]
    assert "1 came for 29 tokens" in judge_logprobs(heard, {}, 17)[1].why


def test_where_drafts_are_told() -> None:
    counted = "vllm:spec_decode_num_draft_tokens_total {0}\nvllm:spec_decode_num_accepted_tokens_total {1}\n"
    before, after = (Exposition.parse(counted.format(*n)) for n in ((10, 5), (40, 25)))
    assert judge_drafts(Heard(timings={"draft_n": 9, "draft_n_accepted": 4}), before, after) == ("timings", 4)
    assert judge_drafts(Heard(timings={"draft_n": 3, "draft_n_accepted": 4}), None, None) == ("none", 0)
    assert judge_drafts(Heard(), before, after) == ("metrics", 20)
    assert judge_drafts(Heard(), None, after) == ("metrics", 0)
    assert judge_drafts(Heard(), None, Exposition.parse("sglang:spec_accept_rate 0.5\n")) == ("metrics", 1)
    assert judge_drafts(Heard(), None, Exposition()) == ("none", 0)


@pytest.mark.parametrize(
    ("text", "counts", "continues"),
    [
        (" 8, 9", (20, 41, 62), True),
        (" 8, 9", (20, 41, 63), True),  # where pieces are joined, counts may be off by one or two
        ("8, 9", (20, 46, 67), False),  # a turn is closed and another one opened, whatever the text is
        ("Of course", (20, 46, 67), False),
        ("1, 2, 3", (20, 41, 62), False),
        ("1, 2, 3, 4, 5, 6", (20, 41, 62), False),
        ("1, 2, 3, 4, 5, 6, 7, 8", (20, 44, 65), True),  # sent back, and the template adds empty thinking
        (" 8, 9", (20, 20, 20), False),  # dropped
        (" 8, 9", (20, 41, 41), False),
        (" eight", (20, 41, 62), True),  # a weak model
        (" 8, 9", (None, None, None), True),
        ("1, 2", (None, None, None), False),
        (" eight", (None, None, None), False),
        ("", (20, 41, 62), True),
    ],
)
def test_what_a_continued_answer_is(text: str, counts: Any, continues: bool) -> None:
    verdict = judge_prefill(text, *counts)
    assert verdict.value == continues and bool(verdict.why) != continues


async def test_fields_that_are_refused_are_left_out() -> None:
    """A strict server: unknown fields are an error, not ignored."""
    asked: list[set[str]] = []

    async def chat(request: web.Request) -> web.Response:
        body = await request.json()
        asked.append(set(body))
        if body.keys() & {"return_token_ids", "logprobs"}:
            return web.json_response({"error": {"message": "Unrecognized request argument"}}, status=400)
        return web.Response(text='data: {"choices":[{"delta":{"content":"x"}}]}\n\ndata: [DONE]\n\n')

    async with serving(v1_chat_completions=chat) as url, Asker(Target("fast", url)) as asker:
        heard, metrics, refused = await trials.try_stream(asker, Identity("openai", model="m"))
    assert heard.text == "x" and metrics is None and len(asked) == 3
    assert "Unrecognized" in refused["return_token_ids"] and "Unrecognized" in refused["logprobs"]
    assert judge_ids(heard, refused).why == refused["return_token_ids"]


async def test_a_field_that_a_refusal_names_is_left_out_first() -> None:
    """Also the usage: who refuses to be asked for it can serve all the same, and tell token ids."""

    async def chat(request: web.Request) -> web.Response:
        if "stream_options" in await request.json():
            return web.json_response({"detail": "body.stream_options: Extra inputs are not permitted"}, status=422)
        return web.Response(text='data: {"choices":[{"delta":{"content":"x"},"token_ids":[7]}]}\n\ndata: [DONE]\n\n')

    async with serving(v1_chat_completions=chat) as url, Asker(Target("fast", url)) as asker:
        heard, _, refused = await trials.try_stream(asker, Identity("vllm", model="m"))
    assert (heard.token_ids, heard.completion_tokens, set(refused)) == ([7], None, {"stream_options"})


@pytest.mark.parametrize(
    ("page", "frame"),
    [
        (web.Response(text='data: {"error":{"message":"temperature must be positive"}}\n\n'), "error_object"),
        (web.Response(text=""), "closes"),
        (web.json_response({"error": {}}, status=400), "unknown"),
        (web.Response(text='data: {"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'), "unknown"),
    ],
)
async def test_how_a_stream_fails(page: web.Response, frame: str) -> None:
    async with serving(v1_chat_completions=page) as url, Asker(Target("fast", url)) as asker:
        verdict = await trials.try_error(asker, Identity("sglang", model="m"))
    assert verdict.value == frame and bool(verdict.why) == (frame == "unknown")


@pytest.mark.parametrize(
    ("kind", "caches", "salt", "hits"),
    [
        ("vllm", True, True, "usage"),
        ("vllm", False, False, "none"),
        ("llamacpp", True, False, "usage"),
        ("openai", True, False, "none"),
    ],
)
async def test_salts(kind: Any, caches: bool, salt: bool, hits: str) -> None:
    async with Upstream(kind, {"m": able()}, caches=caches).running() as up, Asker(at(up)) as asker:
        salted, told = await trials.try_cache(asker, Identity(kind, model="m"))
    assert (salted.value, told.value) == (salt, hits)


@pytest.mark.parametrize(("cached", "hits"), [(512, "usage"), (0, "none")])
async def test_a_server_that_refuses_salts_may_tell_of_hits(cached: int, hits: str) -> None:
    asked = 0

    async def chat(request: web.Request) -> web.Response:
        nonlocal asked
        if "cache_salt" in await request.json():
            return web.json_response({"error": {"message": "Extra inputs are not permitted: cache_salt"}}, status=400)
        asked += 1
        details = {"cached_tokens": cached if asked > 1 else 0}
        return web.json_response({"choices": [], "usage": {"prompt_tokens": 600, "prompt_tokens_details": details}})

    async with serving(v1_chat_completions=chat) as url, Asker(Target("fast", url)) as asker:
        salted, told = await trials.try_cache(asker, Identity("vllm", model="m"))
    assert (salted.value, told.value) == (False, hits)
    assert "not permitted" in salted.why and bool(told.why) == (hits == "none")


async def test_hits_that_only_metrics_tell() -> None:
    """vLLM without --enable-prompt-tokens-details: the counter moves, the usage says nothing."""
    hits = 0
    kept: set[str] = set()

    async def chat(request: web.Request) -> web.Response:
        nonlocal hits
        salt = (await request.json())["cache_salt"]
        hits += 512 if salt in kept else 0
        kept.add(salt)
        return web.json_response({"choices": [], "usage": {"prompt_tokens": 600}})

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=f"vllm:prefix_cache_hits_total {hits}\n")

    async with serving(v1_chat_completions=chat, metrics=metrics) as url, Asker(Target("fast", url)) as asker:
        salted, told = await trials.try_cache(asker, Identity("vllm", model="m"))
    assert (salted.value, told.value) == (True, "metrics")


@pytest.mark.parametrize(
    ("message", "known", "why"),
    [
        ("body.cache_salt: not a string", True, "its effect was not seen"),
        ("", False, "is ignored"),
        ("bad request", False, "bad request"),  # it says nothing of the field
    ],
)
async def test_a_field_that_is_read_refuses_a_wrong_type(message: str, known: bool, why: str) -> None:
    async def chat(request: web.Request) -> web.Response:
        if message and not isinstance((await request.json()).get("cache_salt"), str):
            return web.json_response({"error": {"message": message}}, status=400)
        return web.json_response({"choices": [], "usage": {}})

    async with serving(v1_chat_completions=chat) as url, Asker(Target("fast", url)) as asker:
        salted, told = await trials.try_cache(asker, Identity("vllm", model="m"))
    assert (salted.value, told.value) == (known, "none")
    assert why in salted.why


async def test_scores_above_certainty_are_no_scores() -> None:
    rows = [None, {"2": {"logprob": 0.7}}, {"3": {"logprob": -1.0}}]
    async with (
        serving(v1_completions={"choices": [{"prompt_logprobs": rows}]}) as url,
        Asker(Target("fast", url)) as asker,
    ):
        verdict = await trials.try_scores(asker, Identity("vllm", model="m"), Heard(prompt_ids=[1, 2, 3]))
    assert not verdict.value and "above 0" in verdict.why


async def test_ids_of_a_prompt_are_asked_for_where_the_stream_has_none() -> None:
    async with Upstream("vllm", {"m": able()}).running() as up, Asker(at(up)) as asker:
        assert (await trials.try_scores(asker, Identity("vllm", model="m"), Heard())).value
        assert not (await trials.try_scores(asker, Identity("llamacpp", model="m"), Heard())).value
