"""What probing finds at each kind of server, healthy, old, mute and lying, and that it takes its time only."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from proxy.lanes.asking import Target
from proxy.lanes.identity import LaneSilent
from proxy.lanes.probe import Probed, probe
from tests.proxy.lanes.upstreams_of import able, answer, at, serving
from tests.upstreams.dialects import KINDS, Kind
from tests.upstreams.lanes import Lane
from tests.upstreams.replies import Reply, Text
from tests.upstreams.server import Upstream


async def probed(kind: Kind, lane: Lane | None = None, target: dict[str, Any] | None = None, **server: Any) -> Probed:
    async with Upstream(kind, {"m": lane or able()}, **server).running() as up:
        return await probe(at(up, **(target or {})))


async def test_a_healthy_vllm_with_drafts() -> None:
    found = await probed("vllm", able(width=4, speculation="mtp", kv="fp8"))
    c = found.capabilities
    assert (c.kind, c.version, c.context_window) == ("vllm", "0.33.0", 8192)
    assert (c.speculation, c.kv, c.prefix_cache) == ("mtp, 3 tokens", "fp8", True)
    assert c.token_ids and c.prompt_ids and c.usage and c.logprobs and c.logprobs_under_speculation is True
    assert (c.draft_statistics, c.cache_hits) == ("metrics", "usage")
    assert c.prefill and c.cache_salt and c.prompt_logprobs
    assert found.plain()["missing"].keys() == {"error_frame"}, found.reasons
    assert "before the stream begins" in found.reasons["error_frame"] or "answered" in found.reasons["error_frame"]


async def test_a_healthy_sglang_with_drafts() -> None:
    found = await probed("sglang", able(width=3, speculation="EAGLE", kv="fp8_e4m3"))
    c = found.capabilities
    assert (c.kind, c.version, c.speculation, c.kv) == ("sglang", "0.5.23", "EAGLE, 3 tokens", "fp8_e4m3")
    assert c.token_ids and c.prefill and c.cache_salt and c.usage and c.draft_statistics == "metrics"


async def test_a_healthy_llamacpp_with_drafts() -> None:
    found = await probed("llamacpp", able(width=4, speculation="draft-mtp", kv="q8_0"))
    c = found.capabilities
    # of what kind the drafts are, only a router tells, in the arguments of its models
    assert (c.kind, c.speculation, c.draft_statistics) == ("llamacpp", "on", "timings")
    assert c.version.startswith("b1-") and c.prefill and c.usage
    assert c.cache_hits in ("timings", "usage") and not c.cache_salt and not c.prompt_logprobs and not c.token_ids
    # every log-probability of an accepted draft is 0.0 there
    assert c.logprobs and c.logprobs_under_speculation is False
    missing = found.plain()["missing"]
    assert "made up" in missing["logprobs_under_speculation"] and "swallows" in missing["token_ids"]
    assert "two salts" in found.reasons["cache_salt"]


async def test_a_plain_openai_server_has_little() -> None:
    found = await probed("openai")
    c = found.capabilities
    assert (c.kind, c.token_ids, c.prompt_logprobs, c.draft_statistics) == ("openai", False, False, "none")
    assert (c.speculation, c.kv) == (None, None)
    assert not c.cache_salt and c.usage
    assert found.reasons["kind"] and found.reasons["speculation"]


@pytest.mark.parametrize("kind", KINDS)
async def test_whatever_is_missing_has_a_reason(kind: Kind) -> None:
    found = await probed(kind, Lane(), metrics=False, dev=False, new=False, caches=False)
    for name in found.plain()["missing"]:
        assert found.reasons.get(name), name


async def test_an_old_server_that_ignores_fields_is_not_believed() -> None:
    found = await probed("vllm", able(width=4, speculation="mtp"), new=False, dev=False)
    c = found.capabilities
    assert not c.token_ids and not c.prompt_ids
    assert c.speculation == "on" and c.kv is None  # from the counters alone
    assert found.reasons["token_ids"] == "no ids came, though they were asked for"


async def test_without_drafts_a_server_says_so() -> None:
    for dev in (True, False):
        found = await probed("vllm", able(), dev=dev)
        assert found.capabilities.speculation == "none" and not found.capabilities.speculates
        assert "speculation" not in found.plain()["missing"]
        assert found.capabilities.logprobs_under_speculation is None


@pytest.mark.parametrize("says", [answer, Reply((Text("Of course."),))])
@pytest.mark.parametrize("kind", ["vllm", "sglang", "llamacpp"])
async def test_a_begun_answer_that_is_not_continued_is_noticed(kind: Kind, says: Any) -> None:
    """The server accepts it, closes the turn and begins another one."""
    found = await probed(kind, Lane(says, prefill="ignores"))
    assert not found.capabilities.prefill
    assert "another one opened" in found.reasons["prefill"]


async def test_a_begun_answer_that_is_begun_anew_is_noticed() -> None:
    def anew(asked: Any) -> Reply:
        """Continued by the prompt, and the model begins again all the same."""
        return Reply((Text(f"{asked.prefill}1, 2, 3"),)) if asked.prefill else Reply((Text("1, 2, 3"),))

    found = await probed("vllm", Lane(says=anew))
    assert not found.capabilities.prefill and "begun anew" in found.reasons["prefill"]


async def test_a_begun_answer_that_is_refused_is_told() -> None:
    found = await probed("llamacpp", able(prefill="refuses"))
    assert not found.capabilities.prefill and "incompatible" in found.reasons["prefill"]


async def test_models_behind_one_address_are_told_apart() -> None:
    lanes = {"fast": able(width=4, speculation="draft-mtp", kv="q8_0"), "safe": able()}
    async with Upstream("llamacpp", lanes).running() as up:
        fast, safe = [(await probe(at(up, name))).capabilities for name in lanes]
    assert (fast.speculation, fast.kv, fast.draft_statistics) == ("draft-mtp", "q8_0", "timings")
    assert (safe.speculation, safe.kv) == ("none", "f16")


async def test_a_key_is_needed_and_the_message_says_so() -> None:
    async with Upstream("vllm", {"m": able()}, keys=("secret",)).running() as up:
        with pytest.raises(LaneSilent, match=r"lane 'fast' .* answers 401; set the lane's key"):
            await probe(at(up))
        found = await probe(at(up, key="secret"))
    assert found.capabilities.token_ids
    assert "secret" not in str(found.plain())


async def test_a_lane_that_is_not_there_is_told_with_the_remedy() -> None:
    with pytest.raises(LaneSilent, match="start the server, or correct the lane's url"):
        await probe(Target("plain", "http://127.0.0.1:9", "m"))


async def test_a_model_that_the_server_does_not_have() -> None:
    async with Upstream("vllm", {"m": able(), "n": able()}).running() as up:
        with pytest.raises(LaneSilent, match="does not exist"):
            await probe(at(up, "other"))


async def test_a_server_that_hangs_is_given_up() -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    app = web.Application()
    app.router.add_get("/v1/models", hang)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        with pytest.raises(LaneSilent, match=r"no answer within 0\.05 s"):
            await probe(Target("fast", f"http://127.0.0.1:{runner.addresses[0][1]}", "m"), seconds=0.05)
    finally:
        await runner.cleanup()


async def test_a_server_that_falls_silent_leaves_reasons_for_what_was_not_seen() -> None:
    async def chat(request: web.Request) -> web.Response:
        if (await request.json()).get("stream"):
            return web.Response(
                text='data: {"choices":[{"delta":{"content":"x"}}],"usage":{"completion_tokens":1}}\n\n'
            )
        await asyncio.Event().wait()
        raise AssertionError

    pages = {"v1_models": {"data": [{"id": "m", "owned_by": "vllm"}]}, "v1_chat_completions": chat}
    async with serving(**pages) as url:
        found = await probe(Target("fast", url, "m"), seconds=2.0)
    assert found.capabilities.usage and not found.capabilities.prefill
    assert found.reasons["prefill"] == found.reasons["cache_salt"] == "the probes took longer than 2 s"
    assert all(found.reasons.get(name) for name in found.plain()["missing"])


async def test_a_kind_that_is_configured_wrongly_is_told() -> None:
    found = await probed("sglang", target={"kind": "vllm"})
    assert found.capabilities.kind == "vllm"
    assert found.reasons["kind"] == "it is configured as vllm and looks like sglang"
