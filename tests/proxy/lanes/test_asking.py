"""Questions to a lane are bounded, go nowhere else, and fail in one way."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from proxy.lanes.asking import Asker, Target, Unanswered, number
from proxy.lanes.settings import Lane
from tests.proxy.lanes.upstreams_of import serving


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"data: 1\n" * 512)


async def hang(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def test_json_is_read() -> None:
    async with serving(v1_models={"data": []}) as url, Asker(Target("fast", url)) as asker:
        assert await asker.get_object("/v1/models") == {"data": []}


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ([1], "no JSON object"),
        (web.Response(text="<html>"), "what is no JSON"),
        (endless, "more than 4096 bytes"),
        (hang, "within 0.2 s"),
        (web.Response(status=302, headers={"location": "http://127.0.0.1:9/x"}), "answers 302"),
        (web.Response(status=500, text="Out of \x1b[31mmemory"), "answers 500"),
    ],
)
async def test_what_is_no_answer_is_told_as_one_kind(page: Any, words: str) -> None:
    async with serving(x=page) as url, Asker(Target("fast", url), 0.2, 4096) as asker:
        with pytest.raises(Unanswered, match=words) as caught:
            await asker.get_object("/x")
    assert "\x1b" not in caught.value.told


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"error": {"message": "cache_salt: too long"}}, "cache_salt: too long"),
        ({"object": "error", "message": "no such model"}, "no such model"),
        ({"detail": [{"loc": ["body", "cache_salt"]}]}, '{"detail": [{"loc": ["body", "cache_salt"]}]}'),
        ([1], "[1]"),
    ],
)
async def test_what_an_error_says(body: Any, told: str) -> None:
    async with serving(x=web.json_response(body, status=400)) as url, Asker(Target("fast", url)) as asker:
        with pytest.raises(Unanswered) as caught:
            await asker.post("/x", {})
    assert (caught.value.status, caught.value.told) == (400, told)


async def test_a_stream_without_an_end_is_bounded() -> None:
    async with serving(x=endless) as url, Asker(Target("fast", url), 5, 4096) as asker:
        with pytest.raises(Unanswered, match="streams more than 4096 bytes"):
            async for value in asker.events("/x", {}):
                assert value == 1


async def test_a_key_goes_to_the_lane_and_nowhere_else() -> None:
    seen: list[str | None] = []

    async def page(request: web.Request) -> web.Response:
        seen.append(request.headers.get("authorization"))
        return web.json_response({})

    async with (
        serving(x=page) as url,
        serving(metrics=page) as elsewhere,
        Asker(Target("fast", f"{url}/v1", key="s3cret")) as asker,
    ):
        await asker.get("/x")
        await asker.get(f"{elsewhere}/metrics")
        await asker.get(f"{url}/x")
    assert seen == ["Bearer s3cret", None, "Bearer s3cret"]


async def test_headers_go_to_the_lane_and_nowhere_else() -> None:
    seen: list[str | None] = []

    async def page(request: web.Request) -> web.Response:
        seen.append(request.headers.get("x-team"))
        return web.json_response({})

    target = Target("fast", "", headers={"X-Team": "agents"})
    async with serving(x=page) as url, serving(x=page) as elsewhere, Asker(replace(target, url=url)) as asker:
        await asker.get("/x")
        await asker.get(f"{elsewhere}/x")
    assert seen == ["agents", None]


@pytest.mark.parametrize(
    "page",
    [
        web.json_response({"error": {"message": "there is no key s3cret"}}, status=401),
        web.Response(text="x" * 195 + " s3cret", status=401),
    ],
)
async def test_a_key_that_a_server_repeats_is_not_told_on(page: web.Response) -> None:
    lane = Lane(url="http://127.0.0.1:1", key_env="K")
    async with serving(x=page) as url:
        target = replace(Target.of("fast", lane, {"K": "s3cret\n"}), url=url)
        assert target.key == "s3cret" and "s3cret" not in repr(target)
        async with Asker(target) as asker:
            with pytest.raises(Unanswered) as caught:
                await asker.get("/x")
    assert "s3c" not in caught.value.told


async def test_nobody_listens() -> None:
    async with Asker(Target("fast", "http://127.0.0.1:9")) as asker:
        with pytest.raises(Unanswered) as caught:
            await asker.get("/v1/models")
    assert caught.value.status == 0


def test_addresses() -> None:
    assert Target("fast", "http://h:1/v1/").root == Target("fast", "http://h:1").root == "http://h:1"
    assert Target("fast", "http://h:1/v1", "a/b c").scraped == ("http://h:1/metrics?model=a%2Fb%20c",)
    assert Target("fast", "http://h:1", metrics_urls=("http://h:2/metrics",)).scraped == ("http://h:2/metrics",)


def test_a_configured_lane() -> None:
    lane = Lane(url="http://h:1/v1", model="m", key_env="LANE_KEY", headers=("X-Team: agents",))
    target = Target.of("fast", lane, {"LANE_KEY": "k"})
    assert (target.key, target.kind, dict(target.headers)) == ("k", "", {"X-Team": "agents"})
    assert Target.of("fast", lane.model_copy(update={"kind": "sglang"}), {}).kind == "sglang"


@pytest.mark.parametrize(
    ("value", "wanted"), [(1, 1.0), (0.5, 0.5), (True, None), ("1", None), (None, None), (float("inf"), None)]
)
def test_numbers(value: Any, wanted: float | None) -> None:
    assert number(value) == wanted
    assert number(float("nan")) is None
