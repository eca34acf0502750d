"""The scripted servers are right when they are sound: the official SDK reads every dialect, and what is a server's own
is where its sources have it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import pytest
from openai import APIStatusError, AsyncOpenAI
from openai.lib.streaming.chat import ChatCompletionStreamState
from prometheus_client.parser import text_string_to_metric_families

from tests.upstreams.dialects import KINDS, Kind
from tests.upstreams.lanes import Lane
from tests.upstreams.replies import END_OF_TURN, Call, Reply, Text, Thinking, ids_of, pieces, text_of
from tests.upstreams.server import Upstream

ARGUMENTS = {"path": 'src "é" \\ 😀\n', "depth": 3, "all": True}
REPLY = Reply((Thinking("I look.\n"), Text("I list it.\n"), Call("ls", ARGUMENTS), Call("pwd")))
TOOLS: list[Any] = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("ls", "pwd")]
USER: list[Any] = [{"role": "user", "content": "go"}]
FAST = Lane(REPLY, width=4, speculation="mtp", kv="fp8")
WIDTHS = (1, 2, 4, 1000)


async def raw(up: Upstream, **fields: Any) -> list[Any]:
    """What the `data:` lines of a stream hold."""
    body = {"model": "m", "messages": USER, "stream": True, **fields}
    async with aiohttp.ClientSession() as http, http.post(f"{up.base}/v1/chat/completions", json=body) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        lines = (await response.text()).split("\n\n")
    read = [line.removeprefix("data: ") for line in lines if line]
    return [line if line == "[DONE]" else json.loads(line) for line in read]


async def page(up: Upstream, path: str, body: Any = None) -> Any:
    method = "GET" if body is None else "POST"
    async with aiohttp.ClientSession() as http, http.request(method, up.base + path, json=body) as response:
        text = await response.text()
        return json.loads(text) if response.content_type == "application/json" else text


def sdk(up: Upstream) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{up.base}/v1", api_key="k", max_retries=0)


def deltas(chunks: Sequence[Any]) -> list[Mapping[str, Any]]:
    return [choice["delta"] for chunk in chunks if chunk != "[DONE]" for choice in chunk["choices"]]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
async def test_the_official_sdk_reads_a_sound_response(kind: Kind, width: int, stream: bool) -> None:
    lane = Lane(REPLY, width=width, speculation="mtp")
    async with Upstream(kind, {"m": lane}).running() as up, sdk(up) as client:
        asked: dict[str, Any] = {"model": "m", "messages": USER, "tools": TOOLS}
        if stream:
            state = ChatCompletionStreamState()
            options: Any = {"include_usage": True}
            async for chunk in await client.chat.completions.create(**asked, stream=True, stream_options=options):
                state.handle_chunk(chunk)
            answer: Any = state.get_final_completion()
        else:
            answer = await client.chat.completions.create(**asked)
        (choice,) = answer.choices
        assert choice.message.content == "I list it.\n"
        calls = [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls]
        assert calls == [("ls", ARGUMENTS), ("pwd", {})]
        assert len({call.id for call in choice.message.tool_calls}) == 2
        assert choice.finish_reason == "tool_calls"
        assert getattr(choice.message, up.dialect.thinking) == "I look.\n"
        generated = sum(1 for _ in pieces(REPLY, up.dialect.style)) + 1
        assert answer.usage.completion_tokens == generated
        assert [seen.outcome for seen in up.seen] == ["finished"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_ids_are_those_of_all_tokens_swallowed_ones_too(kind: Kind, width: int) -> None:
    async with Upstream(kind, {"m": Lane(REPLY, width=width)}).running() as up:
        chunks = await raw(up, return_token_ids=True)
        ids = [number for c in chunks[:-1] for choice in c["choices"] for number in choice.get("token_ids") or ()]
        assert ids[-1] == END_OF_TURN
        text = text_of(ids[:-1])
        assert text.startswith("I look.\n</think>\n\nI list it.\n<tool_call>\n<function=ls>\n<parameter=path>\n")
        if kind == "vllm":
            assert text_of(chunks[0]["prompt_token_ids"]).endswith("go<|im_end|>\n<|im_start|>assistant\n")
        assert all("token_ids" not in c for chunk in (await raw(up))[:-1] for c in chunk["choices"])


async def test_only_ids_or_logprobs_make_vllm_send_chunks_for_swallowed_tokens() -> None:
    async with Upstream("vllm", {"m": Lane(REPLY)}).running() as up:
        plain = [delta for delta in deltas(await raw(up)) if not delta]
        assert plain == []
        assert [delta for delta in deltas(await raw(up, return_token_ids=True)) if not delta]
        assert [delta for delta in deltas(await raw(up, logprobs=True)) if not delta]


@pytest.mark.parametrize("kind", ["llamacpp", "openai"])
async def test_others_ignore_the_question_for_ids(kind: Kind) -> None:
    async with Upstream(kind, {"m": FAST}).running() as up:
        assert "token_ids" not in json.dumps(await raw(up, return_token_ids=True))
    async with Upstream("vllm", {"m": FAST}, new=False).running() as up:
        assert "token_ids" not in json.dumps(await raw(up, return_token_ids=True))


async def test_llamacpp_tells_timings_and_false_logprobs_under_speculation() -> None:
    async with Upstream("llamacpp", {"m": FAST}).running() as up:
        chunks = await raw(up, logprobs=True, top_logprobs=2, stream_options={"include_usage": True})
        *_, end, usage, done = chunks
        assert ("timings" in end, usage["choices"], done) == (False, [], "[DONE]")
        told = usage["timings"]
        assert told["draft_n"] == 3 * -(-(told["predicted_n"] - 1) // 4)
        assert 0 < told["draft_n_accepted"] <= told["draft_n"]
        first, *others = [
            entry
            for chunk in chunks[:-1]
            for choice in chunk["choices"]
            for entry in (choice.get("logprobs") or {}).get("content", ())
        ]
        assert (first["logprob"] < 0, len(first["top_logprobs"])) == (True, 2)
        assert {(entry["logprob"], len(entry["top_logprobs"])) for entry in others} == {(0.0, 0)}
        *_, end, done = await raw(up, timings_per_token=True)
        assert end["timings"]["predicted_n"] == told["predicted_n"]
    async with Upstream("llamacpp", {"m": Lane(REPLY)}).running() as up:
        *_, end, done = await raw(up)
        assert "draft_n" not in end["timings"]


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_usage_is_told_with_every_chunk_if_asked(kind: Kind) -> None:
    async with Upstream(kind, {"m": FAST}).running() as up:
        options = {"include_usage": True, "continuous_usage_stats": True}
        _, *chunks, _ = await raw(up, stream_options=options)
        told = [chunk["usage"]["completion_tokens"] for chunk in chunks if "usage" in chunk]
        assert told == sorted(told)
        assert len(told) > 3


async def test_vllm_reports_drafts_of_a_request_where_it_is_told_to() -> None:
    async with Upstream("vllm", {"m": FAST}, reports_drafts=True).running() as up:
        *_, usage, _ = await raw(up, stream_options={"include_usage": True})
        assert usage["metrics"]["speculative_decoding"]["num_draft_tokens"] > 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_limit_cuts_inside_a_call(kind: Kind) -> None:
    async with Upstream(kind, {"m": FAST}).running() as up:
        for field in ("max_tokens", "max_completion_tokens"):
            chunks = await raw(up, **{field: 30})
            reasons = [choice["finish_reason"] for c in chunks[:-1] for choice in c["choices"]]
            assert reasons[-1] == "length"
            assert set(reasons[:-1]) == {None}


@pytest.mark.parametrize("kind", KINDS)
async def test_stop_strings_end_a_response(kind: Kind) -> None:
    async with Upstream(kind, {"m": Lane(REPLY)}).running() as up:
        chunks = await raw(up, stop=["list"])
        assert "".join(delta.get("content") or "" for delta in deltas(chunks)).strip() == "I"


PREFILLED = [*USER, {"role": "assistant", "content": "I list"}]
CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}


@pytest.mark.parametrize(
    ("kind", "fields", "text"),
    [
        ("vllm", CONTINUE, " it.\n"),
        ("vllm", {}, "I list it.\n"),
        ("sglang", {"continue_final_message": True}, " it.\n"),
        ("sglang", {}, "I list it.\n"),
        ("llamacpp", {}, "I list it.\n"),
        ("openai", CONTINUE, "I list it.\n"),
    ],
)
async def test_a_trailing_assistant_message_is_continued_or_answered(
    kind: Kind, fields: dict[str, Any], text: str
) -> None:
    async with Upstream(kind, {"m": Lane(REPLY)}).running() as up:
        chunks = await raw(up, messages=PREFILLED, **fields)
        assert "".join(delta.get("content") or "" for delta in deltas(chunks)) == text


async def test_llamacpp_says_again_what_it_continues() -> None:
    async with Upstream("llamacpp", {"m": Lane(REPLY)}).running() as up:
        said = [delta["content"] for delta in deltas(await raw(up, messages=PREFILLED)) if delta.get("content")]
        assert said[:2] == ["I list", " it"]
        prompt = (await page(up, "/apply-template", {"messages": PREFILLED}))["prompt"]
        assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\nI list")


@pytest.mark.parametrize(
    ("kind", "lane", "fields", "says"),
    [
        ("vllm", Lane(REPLY), {"continue_final_message": True}, "Cannot set both"),
        ("llamacpp", Lane(REPLY), {"chat_template_kwargs": {"enable_thinking": True}}, "incompatible"),
        ("llamacpp", Lane(REPLY), {"messages": [*PREFILLED, PREFILLED[-1]]}, "2 or more assistant"),
        ("sglang", Lane(REPLY, prefill="refuses"), CONTINUE, "incompatible"),
        ("openai", Lane(REPLY, window=10), {}, "maximum context length is 10 tokens"),
        ("llamacpp", Lane(REPLY, window=10), {}, "exceeds the available context size (10 tokens)"),
    ],
)
async def test_what_is_refused(kind: Kind, lane: Lane, fields: dict[str, Any], says: str) -> None:
    async with Upstream(kind, {"m": lane}).running() as up, sdk(up) as client:
        messages = fields.pop("messages", PREFILLED)
        with pytest.raises(APIStatusError, match="400") as refused:
            await client.chat.completions.create(model="m", messages=messages, extra_body=fields)
        assert says in refused.value.message


async def test_unknown_models_are_refused_but_where_the_name_is_not_looked_at() -> None:
    two = {"fast": Lane(REPLY), "plain": Lane(REPLY)}
    cases: list[tuple[Kind, dict[str, Lane], int]] = [("vllm", {"m": FAST}, 404), ("llamacpp", two, 400)]
    for kind, lanes, status in [*cases, ("llamacpp", {"m": FAST}, 200)]:
        async with Upstream(kind, lanes).running() as up, aiohttp.ClientSession() as http:
            body = {"model": "other", "messages": USER}
            async with http.post(f"{up.base}/v1/chat/completions", json=body) as response:
                assert response.status == status, kind


async def test_a_router_tells_its_lanes_apart_by_model() -> None:
    lanes = {"fast": FAST, "plain": Lane(Reply((Text("plain"),)))}
    async with Upstream("llamacpp", lanes).running() as up:
        chunks = await raw(up, model="plain")
        assert "".join(delta.get("content") or "" for delta in deltas(chunks)) == "plain"
        await raw(up, model="fast")
        assert [seen.lane for seen in up.chats] == ["plain", "fast"]
        models = (await page(up, "/v1/models"))["data"]
        assert ["--spec-type" in model["status"]["args"] for model in models] == [True, False]
        settings = (await page(up, "/props?model=fast"))["default_generation_settings"]
        assert settings["params"]["speculative.types"] == "none", "an idle server does not tell"
        told = [(await page(up, f"/slots?model={name}"))[0]["speculative"] for name in lanes]
        assert told == [True, False]
        assert "model name is missing" in await page(up, "/metrics")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "vllm",
            (
                "vllm:spec_decode_num_draft_tokens",
                "vllm:spec_decode_num_accepted_tokens",
                "vllm:spec_decode_num_drafts",
            ),
        ),
        ("sglang", ("sglang:spec_accept_length", "sglang:spec_accept_rate", "sglang:spec_verify_calls")),
        ("llamacpp", ("llamacpp:spec_decode_num_draft_tokens", "llamacpp:spec_decode_num_drafts")),
    ],
)
async def test_metrics_move_with_what_is_generated(kind: Kind, names: Sequence[str]) -> None:
    async with Upstream(kind, {"m": FAST}).running() as up:
        before = await metrics(up)
        await raw(up)
        after = await metrics(up)
        for name in names:
            assert after[name] > before[name], name


async def metrics(up: Upstream) -> dict[str, float]:
    families = text_string_to_metric_families(await page(up, "/metrics"))
    return {family.name: sum(sample.value for sample in family.samples) for family in families}


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llamacpp"])
async def test_a_prefix_is_cached_for_its_own_salt(kind: Kind) -> None:
    long: list[Any] = [{"role": "user", "content": "many words " * 20}]
    async with Upstream(kind, {"m": FAST}).running() as up:
        cached = []
        for salt in ("", "", "other", "other"):
            *_, usage, _ = await raw(up, messages=long, cache_salt=salt, stream_options={"include_usage": True})
            cached.append(usage["usage"]["prompt_tokens_details"]["cached_tokens"] > 0)
        # llama.cpp knows no salts
        assert cached == ([False, True, False, True] if kind != "llamacpp" else [False, True, True, True])


async def test_pages_say_what_runs() -> None:
    async with Upstream("vllm", {"m": FAST}).running() as up:
        assert await page(up, "/version") == {"version": "0.33.0"}
        config = (await page(up, "/server_info?config_format=json"))["vllm_config"]
        assert (config["speculative_config"]["method"], config["cache_config"]["cache_dtype"]) == ("mtp", "fp8")
        assert (await page(up, "/v1/models"))["data"][0]["max_model_len"] == 8192
        assert (await page(up, "/tokenize", {"prompt": "two words"}))["tokens"] == list(ids_of("two words"))
    async with Upstream("vllm", {"m": FAST}, dev=False).running() as up:
        assert "404" in await page(up, "/server_info")
    async with Upstream("sglang", {"m": FAST}).running() as up:
        info = await page(up, "/get_server_info")
        assert (info["speculative_algorithm"], info["kv_cache_dtype"], info["version"]) == ("mtp", "fp8", "0.5.23")
    async with Upstream("llamacpp", {"m": FAST}).running() as up:
        assert await page(up, "/health") == {"status": "ok"}
        assert (await page(up, "/props"))["build_info"]
        assert "go<|im_end|>" in (await page(up, "/apply-template", {"messages": USER}))["prompt"]


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_a_plain_server_judges_tokens_of_another(kind: Kind) -> None:
    fast = Lane(Reply((Text("one two three"),)), speculation="mtp", width=4)
    plain = Lane(Reply((Text("one two four"),)))
    async with Upstream("vllm", {"m": fast}).running() as up, Upstream(kind, {"m": plain}).running() as other:
        chunks = await raw(up, return_token_ids=True)
        prompt = chunks[0]["prompt_token_ids"]
        said = [number for c in chunks[:-1] for choice in c["choices"] for number in choice.get("token_ids") or ()]
        if kind == "vllm":
            body = {"model": "m", "prompt": prompt + said, "max_tokens": 1, "prompt_logprobs": 1}
            entries = (await page(other, "/v1/completions", body))["choices"][0]["prompt_logprobs"]
            assert (entries[0], len(entries)) == (None, len(prompt) + len(said))
            ranks = [entry[str(number)]["rank"] for number, entry in zip(said, entries[len(prompt) :], strict=True)]
        else:
            body = {"input_ids": prompt + said, "return_logprob": True, "logprob_start_len": len(prompt)}
            meta = (await page(other, "/generate", {**body, "top_logprobs_num": 1}))["meta_info"]
            told = zip(meta["input_token_logprobs"], meta["input_top_logprobs"], strict=True)
            ranks = [1 if own[1] == top[0][1] else 40 for own, top in told]
        assert ranks[:2] == [1, 1]
        assert ranks.count(40) == 1, "only the first token that differs"


async def test_a_client_that_leaves_is_seen() -> None:
    endless = Lane(Reply((Text("word " * 4000),)))
    async with Upstream("vllm", {"m": endless}).running() as up, aiohttp.ClientSession() as http:
        body = {"model": "m", "messages": USER, "stream": True}
        response = await http.post(f"{up.base}/v1/chat/completions", json=body)
        await response.content.readany()
        assert up.chats[0].outcome == "open"
        response.close()
        assert await up.chats[0].end() == "left"


async def test_keys_are_asked_for() -> None:
    async with Upstream("vllm", {"m": FAST}, keys=("right",)).running() as up, sdk(up) as client:
        with pytest.raises(APIStatusError, match="401"):
            await client.models.list()
