"""A pool as a backend: how it starts, which lane serves, what is passed on, and what it says of itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
from aiohttp import web

from policies.modes import PLAIN, DecodeMode
from proxy.backends.errors import BackendError
from proxy.backends.lanes import LanesBackend
from proxy.conversation import Message, Tool
from proxy.lanes.asking import Target
from proxy.lanes.capabilities import LaneCapabilities
from proxy.lanes.identity import LaneSilent
from proxy.lanes.probe import Probed, probe
from proxy.lanes.settings import Lanes
from tests.proxy.lanes.pool import FULL, Pool, known, pool, two_lanes
from tests.proxy.lanes.told import APIS, body, told
from tests.proxy.live import CHAT, MESSAGES
from tests.upstreams.dialects import KINDS, Dialect, Kind
from tests.upstreams.faults import Fault
from tests.upstreams.lanes import Asked, Lane
from tests.upstreams.replies import Call, Reply, Text
from tests.upstreams.server import Upstream

SOUND = Reply((Text("I list it.\n"), Call("ls", {"path": "src"})))
GOOD = ("ls", {"path": "src"})
LANES = Lanes.model_validate(
    {"fast": {"url": "http://127.0.0.1:1", "model": "q"}, "plain": {"url": "http://127.0.0.1:2"}}
)


async def started(lanes: Lanes = LANES, **found: LaneCapabilities) -> LanesBackend:
    """Without a server: lanes are what is said of them."""

    async def probed(target: Target) -> Probed:
        return Probed(target, target.model or "only", found.get(target.name, LaneCapabilities()))

    backend = LanesBackend(lanes, prober=probed, environment={})
    await backend.start()
    return backend


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("api", APIS)
async def test_a_sound_lane_is_passed_through(kind: Kind, api: str) -> None:
    async with pool(two_lanes(kind, Lane(SOUND, width=3, speculation="mtp"))) as running:
        got = told(api, *await running.post(api, body(api)))
        assert (got.text, got.calls, got.error) == ("I list it.\n", [GOOD], "")
        assert await running.incidents() == []
        assert running.upstream.of("plain") == []


@pytest.mark.parametrize("kind", KINDS)
async def test_real_probes_find_what_the_tests_say_of_the_scripted_servers(kind: Kind) -> None:
    fast_server = Upstream(kind, {"q": Lane(SOUND, width=3, speculation="mtp")})
    plain_server = Upstream(kind, {"q": Lane(SOUND)})
    async with fast_server.running(), plain_server.running():
        urls = {"fast": {"url": fast_server.base}, "plain": {"url": plain_server.base}}
        backend = LanesBackend(Lanes.model_validate(urls))
        await backend.start()
        fast, plain = backend.servers
        assert fast.can.kind == kind
        for name in ("token_ids", "usage", "cache_salt", *(("prefill",) if kind != "openai" else ())):
            assert getattr(fast.can, name) == getattr(FULL[kind], name), name
        assert (fast.model, backend.info.id) == ("q", "q")
        assert plain.mode == PLAIN
        assert fast.mode.speculates
        assert backend.capabilities.ladder == (str(fast.mode), "plain")
        await backend.stop()


async def test_session_request_id_and_configured_headers_go_on_and_no_key() -> None:
    upstream = two_lanes("vllm", Lane(SOUND))
    async with pool(upstream, lanes={"pass_headers": ["cookie", "x-session-id"]}) as running:
        await running.post(
            CHAT,
            body(CHAT),
            x_session_id="s-1",
            x_request_id="r-1",
            cookie="a=b",
            x_other="no",
            authorization="Bearer k",
        )
        await running.post(CHAT, body(CHAT))
    first, second = upstream.chats
    assert (first.headers["x-session-id"], first.headers["x-request-id"]) == ("s-1", "r-1")
    assert first.headers["cookie"] == "a=b"
    assert "x-other" not in first.headers
    assert "authorization" not in first.headers
    assert second.headers["x-session-id"].startswith("auto-")
    assert "cookie" not in second.headers


async def test_the_key_of_a_lane_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANE_KEY", "s3cret")
    upstream = two_lanes("vllm", Lane(SOUND), keys=("s3cret",))
    lanes = {"fast": {"url": "http://x", "model": "fast"}}
    async with upstream.running():
        lanes["fast"] |= {"url": upstream.base, "key_env": "LANE_KEY"}
        backend = LanesBackend(Lanes.model_validate(lanes), prober=known("vllm"))
        await backend.start()
        assert backend.servers[0].upstream.key == "s3cret"
        assert "s3cret" not in json.dumps([backend.capabilities.lanes, backend.info.details])
        await backend.stop()


async def test_a_fast_lane_that_is_away_is_told_and_the_plain_one_serves() -> None:
    upstream = two_lanes("vllm", Lane(SOUND))
    async with pool(upstream, lanes={"retries": 0}) as running:
        fast = running.service.backend.servers[0]  # type: ignore[attr-defined]
        fast.upstream.lane = fast.lane.model_copy(update={"url": "http://127.0.0.1:1"})
        for api in APIS:
            got = told(api, *await running.post(api, body(api)))
            assert (got.text, got.calls, got.error) == ("I list it.\n", [GOOD], "")
        records = await running.incidents()
        assert {record.opened["reason"] for record in records} == {"the lane failed: unreachable"}
        assert {(record.state, record.culprit) for record in records} == {("recovered", "unknown")}
        assert len(upstream.of("plain")) == 3


@pytest.mark.parametrize("path", APIS)
@pytest.mark.parametrize("both", [True, False], ids=["both", "alone"])
async def test_where_no_lane_answers_the_status_says_so_and_an_incident_tells_of_it(path: str, both: bool) -> None:
    async with pool(two_lanes("vllm", Lane(SOUND)), plain=both, lanes={"retries": 0}) as running:
        for server in running.service.backend.servers:  # type: ignore[attr-defined]
            server.upstream.lane = server.lane.model_copy(update={"url": "http://127.0.0.1:1"})
        found, answer = await running.post(path, body(path))
        assert found == 502
        assert b"fast lane" in answer
        (record,) = await running.incidents()
        opened = record.opened
        assert (opened["detector"], opened["reason"]) == ("lane.failed", "the lane failed: unreachable")
        assert (opened["action"], record.state, record.culprit) == ("end", "ended", "unknown")
        assert opened["rule"]
        assert opened["evidence"]["lane"] == "fast"
        assert opened["evidence"].get("other_lane") == ("plain" if both else None)
        assert opened["evidence"].get("other_failure") == ("unreachable" if both else None)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("fails", ["away", "gateway"])
async def test_a_request_that_the_plain_lane_finds_at_fault_is_told_so_while_the_fast_one_is_away(
    api: str, stream: bool, fails: str
) -> None:
    """A bad gateway would have it sent again, for ever."""

    def refused(_: Asked, dialect: Dialect) -> web.Response:
        return web.json_response(dialect.error(400, "the tools are not what they should be"), status=400)

    def gone(_: Asked, dialect: Dialect) -> web.Response:
        return web.json_response(dialect.error(502, "no engine"), status=502)

    fast = Lane(SOUND, (Fault(http=gone),) if fails == "gateway" else ())
    async with pool(two_lanes("vllm", fast, Lane(SOUND, (Fault(http=refused),))), lanes={"retries": 0}) as running:
        server = running.service.backend.servers[0]  # type: ignore[attr-defined]
        if fails == "away":
            server.upstream.lane = server.lane.model_copy(update={"url": "http://127.0.0.1:1"})
        status, answer = await running.post(api, body(api, stream=stream))
        error = json.loads(answer)["error"]
        assert (status, error["type"]) == (400, "invalid_request_error")
        assert "the tools are not what they should be" in error["message"]
        (record,) = await running.incidents()
        assert (record.opened["evidence"]["lane"], record.state) == ("fast", "ended")
        assert record.opened["evidence"]["other_failure"] == "refused"


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("fails", ["away", "gateway", "untrusted"])
async def test_where_the_plain_lane_is_busy_and_the_fast_one_away_the_client_is_told_when_to_come_back(
    api: str, stream: bool, fails: str
) -> None:
    """A bad gateway would have it sent again at once, or given up."""

    def busy(_: Asked, dialect: Dialect) -> web.Response:
        return web.json_response(dialect.error(429, "too many"), status=429, headers={"Retry-After": "7"})

    def gone(_: Asked, dialect: Dialect) -> web.Response:
        return web.json_response(dialect.error(502, "no engine"), status=502)

    fast = Lane(SOUND, (Fault(http=gone),) if fails == "gateway" else ())
    async with pool(two_lanes("vllm", fast, Lane(SOUND, (Fault(http=busy),))), lanes={"retries": 0}) as running:
        server = running.service.backend.servers[0]  # type: ignore[attr-defined]
        if fails == "away":
            server.upstream.lane = server.lane.model_copy(update={"url": "http://127.0.0.1:1"})
        elif fails == "untrusted":
            running.service.mode = PLAIN
        async with running.http.post(running.base + api, json=body(api, stream=stream)) as answer:
            error = (await answer.json())["error"]
            found = answer.status, error["type"], answer.headers["retry-after"], answer.headers["retry-after-ms"]
        shape = (529, "overloaded_error") if api == MESSAGES else (429, "rate_limit_error")
        assert found == (*shape, "7", "7000")
        assert "plain lane" in error["message"]
        records = await running.incidents()
        told_of = [record.opened["evidence"].get("other_failure") for record in records]
        assert told_of == ([] if fails == "untrusted" else ["unavailable"])


async def test_a_single_lane_is_guarded_without_a_way_back() -> None:
    bad = Reply((Text("so "), Call("ls", {"pth": "src"})))
    upstream = two_lanes("vllm", Lane(bad))
    async with pool(upstream, plain=False) as running:
        got = told(CHAT, *await running.post(CHAT, body(CHAT)))
        assert got.calls == []
        assert "[specguard]" in got.text
        assert not running.service.backend.capabilities.rewinds


async def test_a_request_without_drafts_goes_to_the_plain_lane() -> None:
    upstream = two_lanes("vllm", Lane(SOUND))
    async with pool(upstream) as running:
        await running.post(CHAT, body(CHAT, speculative={"enabled": False}))
        await running.post(CHAT, body(CHAT))
    assert [seen.lane for seen in upstream.chats] == ["plain", "fast"]


async def test_ready_and_incidents_show_the_lanes() -> None:
    async with pool(two_lanes("vllm", Lane(SOUND))) as running:
        async with running.http.get(running.base + "/ready") as response:
            shown = await response.json()
        assert shown["lanes"]["fast"]["capabilities"]["kind"] == "vllm"
        assert shown["lanes"]["plain"]["mode"] == "plain"
        assert shown["mode"] == "mtp/full"
        assert shown["model"]["id"] == "fast"


@pytest.mark.parametrize("kind", KINDS)
async def test_tokens_are_counted_by_a_lane_or_estimated(kind: Kind) -> None:
    async with pool(two_lanes(kind, Lane(SOUND))) as running:
        count = running.service.backend.count_tokens
        few = await count((Message("user", "go"),), ())
        many = await count((Message("user", "go " * 200),), (Tool("ls"),))
        assert 0 < few < many
        counted = [seen.path for seen in running.upstream.seen if "token" in seen.path or "template" in seen.path]
        assert bool(counted) == (kind != "openai")


async def test_modes_and_capabilities_are_those_of_both_lanes() -> None:
    backend = await started(
        fast=LaneCapabilities("vllm", token_ids=True, logprobs=True, speculation="mtp", kv="fp8", context_window=9000),
        plain=LaneCapabilities("llamacpp", logprobs=True, logprobs_under_speculation=False, context_window=8000),
    )
    can = backend.capabilities
    assert (can.modes, can.ladder) == (("mtp/k8v8", "plain"), ("mtp/k8v8", "plain"))
    assert (can.token_ids, can.logprobs, can.rewinds, can.constraints) == (False, False, True, True)
    assert backend.info.context_window == 8000
    assert backend.server_for(DecodeMode("mtp", "k8v8")).name == "fast"
    assert backend.server_for(DecodeMode("none", "k8v8")).name == "plain"
    changed = backend.changed(DecodeMode("mtp", "k8v8"), PLAIN)
    assert (changed["lane"], changed["kv"], changed["kind"]) == (["fast", "plain"], ["fp8", None], ["vllm", "llamacpp"])
    await backend.stop()


async def test_lanes_that_say_the_same_of_themselves_are_still_two() -> None:
    backend = await started(fast=LaneCapabilities(speculation="none"), plain=LaneCapabilities(speculation="none"))
    assert backend.capabilities.ladder == ("mtp/full", "plain")
    await backend.stop()
    backend = await started(fast=LaneCapabilities(speculation="mtp"), plain=LaneCapabilities(speculation="mtp"))
    assert backend.capabilities.ladder == ("mtp/full", "plain")
    await backend.stop()


async def test_a_fingerprint_is_that_of_what_is_served() -> None:
    one = await started(fast=LaneCapabilities("vllm", "0.33.0"))
    same = await started(fast=LaneCapabilities("vllm", "0.33.0"))
    other = await started(fast=LaneCapabilities("vllm", "0.34.0"))
    assert one.info.fingerprint == same.info.fingerprint != other.info.fingerprint
    for backend in (one, same, other):
        await backend.stop()


async def test_a_silent_lane_is_named() -> None:
    async def silent(target: Target) -> Probed:
        raise LaneSilent(f"lane {target.name!r}: no answer; start the server")

    with pytest.raises(BackendError, match="start the server"):
        await LanesBackend(LANES, prober=silent, environment={}).start()


async def test_a_prompt_that_is_too_long_is_told_as_its_api_does() -> None:
    upstream = two_lanes("vllm", Lane(SOUND, window=64), Lane(SOUND, window=64))
    async with pool(upstream) as running:
        long = [{"role": "user", "content": "many words " * 200}]
        status, answer = await running.post(MESSAGES, body(MESSAGES, messages=long))
        assert status == 400
        assert "prompt is too long" in answer.decode()


def test_a_pool_is_built_without_torch() -> None:
    code = (
        "import sys\nfrom proxy.server.app import build_backend\nfrom proxy.configuration.config import Config\n"
        "build_backend(Config.model_validate({'lanes': {'fast': {'url': 'http://127.0.0.1:1'}}}))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


async def test_clients_with_keys_of_their_own_share_no_prefix() -> None:
    keys = {"server": {"keys": ["one", "two"]}, "lanes": {"cache_salt": "pepper"}}
    async with pool(two_lanes("vllm", Lane(SOUND)), **keys) as running:
        for key in ("one", "two", "one"):
            await running.post(CHAT, body(CHAT), authorization=f"Bearer {key}")
        first, second, again = (seen.body["cache_salt"] for seen in running.upstream.of("fast"))
        assert first == again != second
        assert not {"pepper", "one", "two"} & {first, second}


async def test_without_keys_all_have_the_salt_that_is_configured() -> None:
    async with pool(two_lanes("vllm", Lane(SOUND)), lanes={"cache_salt": "pepper"}) as running:
        await running.post(CHAT, body(CHAT))
        assert running.upstream.of("fast")[0].body["cache_salt"] == "pepper"


async def test_where_lanes_are_is_told_to_whoever_has_a_key() -> None:
    async with pool(two_lanes("vllm", Lane(SOUND)), server={"keys": ["one"]}) as running:
        shown = []
        for headers in ({}, {"authorization": "Bearer two"}, {"authorization": "Bearer one"}):
            async with running.http.get(f"{running.base}/ready", headers=headers) as response:
                assert response.status == 200
                shown.append(await response.text())
        assert [running.upstream.base in each for each in shown] == [False, False, True]
        assert json.loads(shown[0])["lanes"]["fast"] == {"name": "fast", "mode": "mtp/full", "known_bad": []}


async def test_what_a_server_says_of_a_failure_is_in_no_record() -> None:
    """It may repeat what it was given."""
    secret = "the harbour at noon"

    def refused(_: Asked, dialect: Dialect) -> web.Response:
        return web.json_response(dialect.error(500, secret), status=500)

    async with pool(two_lanes("vllm", Lane(SOUND, (Fault(http=refused),)), Lane(SOUND))) as running:
        await running.post(CHAT, body(CHAT))
        (record,) = await running.incidents()
        assert record.opened["detector"] == "lane.failed"
        assert secret not in json.dumps([record.opened, record.closed])


async def fast_is_back(running: Pool) -> dict[str, Any]:
    for _ in range(200):  # less than look_every_s is by itself
        async with running.http.get(f"{running.base}/ready") as response:
            ready: dict[str, Any] = await response.json()
        if ready["lanes"]["fast"]["answers"]:
            return ready
        await asyncio.sleep(0.05)
    raise AssertionError("it was never noticed")


async def test_a_fast_lane_that_is_away_at_the_start_comes_later() -> None:
    away = Upstream("vllm", {"m": Lane(SOUND, width=4, speculation="mtp", kv="turboquant_4bit_nc")})
    async with away.running():
        port = int(away.base.rsplit(":", 1)[1])
    lanes = {"fast": {"url": f"http://127.0.0.1:{port}", "model": "m"}, "plain": {"model": "plain"}}
    upstream = two_lanes("vllm", Lane(SOUND))
    async with upstream.running():
        url, plain_port = upstream.base, int(upstream.base.rsplit(":", 1)[1])
    upstream.running = partial(upstream.running, plain_port)  # type: ignore[method-assign]
    lanes["plain"]["url"] = url
    async with pool(upstream, probe, lanes=lanes | {"look_every_s": 0.05}) as running:
        got = told(CHAT, *await running.post(CHAT, body(CHAT, model="m")))
        assert (got.calls, got.error) == ([GOOD], "")
        ready = await (await running.http.get(f"{running.base}/ready")).json()
        assert "start the server" in ready["lanes"]["fast"]["away"] and not ready["lanes"]["fast"]["answers"]
        async with away.running(port):
            ready = await fast_is_back(running)
            fast = ready["lanes"]["fast"]
            assert fast["away"] is None and fast["capabilities"]["token_ids"]
            assert fast["known_bad"]
            records = running.service.keeper.records.values()
            assert any(trip.incident.startswith("known-bad:") for record in records for trip in record.trips)


async def test_a_server_whose_lanes_are_all_away_says_so_and_tries_all_the_same() -> None:
    """Whoever spreads requests over several proxies asks `/ready`; a request need not wait for the next look."""
    fast, plain = (Upstream("vllm", {"m": Lane(SOUND, speculation=kind)}) for kind in ("mtp", None))

    async def ready(running: Pool, wanted: bool) -> dict[str, Any]:
        for _ in range(200):
            async with running.http.get(f"{running.base}/ready") as response:
                found: dict[str, Any] = await response.json()
            if found["ready"] is wanted:
                assert response.status == (200 if wanted else 503)
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(found)

    async with AsyncExitStack() as servers, AsyncExitStack() as ours:
        stops = {up: await servers.enter_async_context(AsyncExitStack()) for up in (fast, plain)}
        for up, stop in stops.items():
            await stop.enter_async_context(up.running())
        lanes = {"fast": {"url": fast.base, "model": "m"}, "plain": {"url": plain.base, "model": "m"}}
        unused = two_lanes("vllm", Lane(SOUND))
        running = await ours.enter_async_context(pool(unused, probe, lanes=lanes | {"look_every_s": 0.05}))
        await ready(running, True)
        await stops[fast].aclose()
        for _ in range(200):
            if (found := await ready(running, True))["lanes"]["fast"]["answers"] is False:
                break
        assert found["lanes"]["fast"]["answers"] is False, "one lane that is left is enough"
        await stops[plain].aclose()
        assert "no lane answers (fast, plain)" in (await ready(running, False))["reason"]
        async with running.http.get(f"{running.base}/metrics") as response:
            assert "specguard_ready 0.0" in await response.text()
        async with plain.running(int(plain.base.rsplit(":", 1)[1])):
            got = told(CHAT, *await running.post(CHAT, body(CHAT, model="m")))
            assert (got.calls, got.error) == ([GOOD], "")
            await ready(running, True)


async def test_where_no_lane_answers_there_is_no_start() -> None:
    lanes = LANES.model_copy(update={"connect_s": 0.5})
    with pytest.raises(BackendError, match="start the server"):
        await LanesBackend(lanes, prober=probe).start()
