"""Whose server a lane is, from what it tells; and that a name alone convinces nobody."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from proxy.lanes import identity
from proxy.lanes.asking import Asker, Target
from proxy.lanes.identity import Identity, LaneSilent, identify
from tests.proxy.lanes.upstreams_of import able, at, serving
from tests.upstreams.server import Upstream

CARD = {"id": "m", "object": "model"}


async def identified(model: str = "m", kind: str = "", **pages: Any) -> Identity:
    pages = {"v1_models": {"data": [CARD]}} | pages
    async with serving(**pages) as url, Asker(Target("fast", url, model, kind=kind)) as asker:
        return await identify(asker)


@pytest.mark.parametrize(
    ("pages", "kind"),
    [
        ({}, "openai"),
        ({"version": {"version": "1.0"}}, "openai"),  # everybody has one
        ({"v1_models": {"data": [CARD | {"owned_by": "vllm"}]}}, "vllm"),
        ({"v1_models": {"data": [CARD | {"owned_by": "llama.cpp"}]}}, "llamacpp"),
        ({"v1_models": {"data": [CARD | {"owned_by": "openai"}]}}, "openai"),
        ({"server__info": {"vllm_config": {}}}, "vllm"),
        ({"server__info": {"vllm_config": "a text"}}, "vllm"),
        ({"get__server__info": {"model_path": "m", "internal_states": []}}, "sglang"),
        ({"props": {"build_info": "b1"}}, "llamacpp"),
        ({"metrics": web.Response(text="vllm:num_requests_running 1.0\n")}, "vllm"),
        ({"metrics": web.Response(text="python_info 1.0\n")}, "openai"),
    ],
)
async def test_kinds(pages: dict[str, Any], kind: str) -> None:
    found = await identified(**pages)
    assert found.kind == kind
    assert ("kind" in found.why) == (kind == "openai")


async def test_vllm_without_its_development_mode_tells_by_its_metrics() -> None:
    text = (
        'vllm:cache_config_info{cache_dtype="fp8_e4m3",enable_prefix_caching="False"} 1.0\n'
        "vllm:spec_decode_num_draft_tokens_total 0.0\n"
    )
    found = await identified(metrics=web.Response(text=text), version={"version": "0.33.0"})
    assert (found.speculation, found.kv, found.prefix_cache, found.version) == ("on", "fp8_e4m3", False, "0.33.0")


@pytest.mark.parametrize(("drafts", "speculation"), [(True, "on"), (False, None)])
async def test_one_engine_of_many_tells_what_its_lane_runs(
    monkeypatch: pytest.MonkeyPatch, drafts: bool, speculation: str | None
) -> None:
    """The others are refused and never answer: their configuration is the same, and nobody waits for them for long."""
    monkeypatch.setattr(identity, "METRICS_S", 0.2)
    text = 'vllm:cache_config_info{cache_dtype="turboquant_4bit_nc"} 1.0\n'
    text += "vllm:spec_decode_num_draft_tokens_total 0.0\n" * drafts

    async def silent(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        raise AssertionError

    pages: dict[str, Any] = {"v1_models": {"data": [CARD]}, "metrics": web.Response(text=text), "silent": silent}
    async with serving(**pages) as url:
        engines = (f"{url}/metrics", f"{url}/silent", "http://127.0.0.1:1/metrics")
        async with Asker(Target("fast", url, "m", metrics_urls=engines)) as asker, asyncio.timeout(10):
            found = await identify(asker)
            assert await identity.scrape(asker, {}) is None, "sums of some engines are no sums"
    assert (found.kind, found.kv, found.speculation) == ("vllm", "turboquant_4bit_nc", speculation)
    assert "/silent does not answer" in found.why["metrics"]


async def test_without_either_nothing_is_claimed() -> None:
    found = await identified(v1_models={"data": [CARD | {"owned_by": "vllm", "max_model_len": 4096}]})
    assert (found.speculation, found.kv, found.prefix_cache, found.context_window) == (None, None, None, 4096)
    assert "VLLM_SERVER_DEV_MODE" in found.why["speculation"]


@pytest.mark.parametrize(
    ("drafts", "said"),
    [
        (None, "none"),
        ({"method": "mtp", "num_speculative_tokens": 3}, "mtp, 3 tokens"),
        ({"method": "eagle3", "rejection_sample_method": "fly"}, "eagle3, fly acceptance"),
        ({"method": "eagle3", "rejection_sample_method": "block"}, "eagle3"),
    ],
)
async def test_how_vllm_drafts(drafts: Any, said: str) -> None:
    config = {"cache_config": {"cache_dtype": "auto"}, "speculative_config": drafts}
    found = await identified(server__info={"vllm_config": config})
    assert (found.speculation, found.kv) == (said, "auto")


async def test_how_sglang_drafts() -> None:
    info = {"speculative_algorithm": "EAGLE", "model_path": "m", "internal_states": [], "version": "0.5.23"}
    more = {"speculative_use_rejection_sampling": True, "speculative_accept_threshold_single": 0.9}
    found = await identified(get__server__info=info | more | {"kv_cache_dtype": "fp8_e4m3", "context_length": 5000})
    assert found.speculation == "EAGLE, rejection sampling, single threshold 0.9"
    assert (found.kv, found.version, found.context_window) == ("fp8_e4m3", "0.5.23", 5000)


async def test_how_llamacpp_drafts_is_told_by_slots_too() -> None:
    for types, slot, said in (
        ("none", {"speculative": True}, "on"),  # the default of a request, not of the server
        ("none", {"speculative": False}, "none"),
        ("none", {}, None),
        ("draft-mtp", {}, "draft-mtp"),
        ("none", {"speculative": True, "params": {"speculative.types": "ngram-mod"}}, "ngram-mod"),
    ):
        settings = {"params": {"speculative.types": types}, "n_ctx": 900}
        found = await identified(props={"build_info": "b7", "default_generation_settings": settings}, slots=[slot])
        assert (found.speculation, found.version, found.context_window) == (said, "b7", 900)


async def test_llamacpp_router_tells_the_arguments_of_each_model() -> None:
    arguments = ["llama-server", "--spec-type", "draft-mtp,ngram-mod", "-ctk", "q8_0", "-ctv", "q4_0"]
    models = {"data": [{"id": "m", "status": {"args": arguments}}]}
    settings = {"params": {"speculative.types": "none"}}
    found = await identified(props={"build_info": "b7", "default_generation_settings": settings}, models=models)
    assert (found.speculation, found.kv) == ("draft-mtp,ngram-mod", "q8_0/q4_0")


async def test_what_it_drafts_with_is_disarmed_too() -> None:
    models = {"data": [{"id": "m", "status": {"args": ["--spec-type", "\x1b[2J" + "x" * 500]}}]}
    found = await identified(props={"build_info": "b7"}, models=models)
    assert found.speculation is not None and "\x1b" not in found.speculation and len(found.speculation) <= 80


@pytest.mark.parametrize("told", [0, -5, 0.5, 1e300, True, "many"])
async def test_a_window_that_is_none_is_not_told(told: Any) -> None:
    assert (await identified(v1_models={"data": [CARD | {"max_model_len": told}]})).context_window is None
    card = CARD | {"max_model_len": told, "meta": {"n_ctx": 4096}}
    assert (await identified(v1_models={"data": [card]})).context_window == 4096


@pytest.mark.parametrize("cards", [[], None, ["m"], {"m": 1}])
async def test_a_server_without_models_is_no_lane(cards: Any) -> None:
    with pytest.raises(LaneSilent, match="names no model"):
        await identified(v1_models={"data": cards})


@pytest.mark.parametrize(
    ("page", "remedy"),
    [
        (web.Response(status=403), "set the lane's key"),
        (web.Response(status=503), "still loading"),
        (web.Response(status=404), "OpenAI-compatible API"),
        (web.Response(text="<html>"), "start the server, or correct"),
    ],
)
async def test_what_does_not_answer_is_told_with_a_remedy(page: web.Response, remedy: str) -> None:
    with pytest.raises(LaneSilent, match=remedy):
        await identified(v1_models=page)


async def test_a_model_that_is_not_among_them_is_told() -> None:
    found = await identified(model="other", v1_models={"data": [CARD, {"id": "n"}]})
    assert found.why["model"] == "there is no 'other' among its models (m, n); requests may be refused"


async def test_a_name_that_commands_a_terminal_is_disarmed() -> None:
    found = await identified(model="", v1_models={"data": [{"id": "m\x1b[2J\n" + "x" * 500}]})
    assert "\x1b" not in found.model and "\n" not in found.model and len(found.model) <= 80


async def test_a_metrics_page_that_is_missing_is_told() -> None:
    async with Upstream("vllm", {"m": able()}, metrics=False, dev=False).running() as up, Asker(at(up)) as asker:
        found = await identify(asker)
    assert found.metrics is None and "404" in found.why["metrics"] and found.speculation is None
