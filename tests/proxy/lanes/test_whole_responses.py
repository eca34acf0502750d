"""Responses of which the client gets nothing before their end: nothing of them is delivered until then, so that an
attempt that went wrong leaves no trace in them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.proxy.lanes.pool import Pool, known, pool, two_lanes
from tests.proxy.lanes.told import APIS, body
from tests.proxy.live import CHAT, MESSAGES, RESPONSES, Answer
from tests.upstreams.dialects import KINDS, Kind
from tests.upstreams.heard import Api, Heard, hear_whole
from tests.upstreams.lanes import Lane
from tests.upstreams.replies import Call, Reply, Text, Thinking

LS, BAD = Call("ls", {"path": "src"}), Call("ls", {"pth": "src"})
GOOD = ("ls", {"path": "src"})
NAMES: dict[str, Api] = {CHAT: "chat", RESPONSES: "responses", MESSAGES: "messages"}


async def got(running: Pool, path: str, **fields: Any) -> Heard:
    status, answer = await running.post(path, body(path, stream=False, **fields))
    return hear_whole(NAMES[path], Answer(status, {}, answer))


def lanes(kind: Kind, *parts: Any, sound: tuple[Any, ...], end: Any = "stop") -> Any:
    return two_lanes(kind, Lane(Reply(parts, end), width=4, speculation="mtp"), Lane(Reply(sound)))


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("kind", KINDS)
async def test_behind_text_it_begins_anew_also_where_no_text_can_be_continued(kind: Kind, api: str) -> None:
    upstream = lanes(kind, Text("I list it all, and then some. "), BAD, sound=(Text("I do.\n"), LS))
    async with pool(upstream, known(kind, prefill=False)) as running:
        found = await got(running, api)
        assert (found.text, found.parsed, found.error) == ("I do.\n", [GOOD], None)
        (fast,), (plain,) = upstream.of("fast"), upstream.of("plain")
        assert plain.body["messages"] == fast.body["messages"]
        (record,) = await running.incidents()
        assert (record.state, record.opened["rewound_to"]) == ("recovered", 0)


@pytest.mark.parametrize("api", APIS)
async def test_also_where_a_text_could_be_continued(api: str) -> None:
    """What was said before it went wrong may have been part of it."""
    upstream = lanes("vllm", Text("I list it all, and then some. "), BAD, sound=(Text("I do.\n"), LS))
    async with pool(upstream) as running:
        found = await got(running, api)
        assert (found.text, found.parsed, found.error) == ("I do.\n", [GOOD], None)


@pytest.mark.parametrize("api", APIS)
async def test_behind_a_call_it_begins_anew(api: str) -> None:
    upstream = lanes("vllm", Text("Both.\n"), LS, BAD, sound=(Text("Two.\n"), LS, LS))
    async with pool(upstream) as running:
        found = await got(running, api)
        assert (found.text, found.parsed, found.error) == ("Two.\n", [GOOD, GOOD], None)


@pytest.mark.parametrize("api", APIS)
async def test_only_the_thoughts_of_the_attempt_that_is_told_are(api: str) -> None:
    upstream = lanes("vllm", Thinking("I look.\n"), BAD, sound=(Thinking("I see.\n"), LS))
    async with pool(upstream) as running:
        found = await got(running, api)
        assert (found.thinking, found.parsed, found.error) == ("I see.\n", [GOOD], None)


@pytest.mark.parametrize("api", APIS)
async def test_a_loop_leaves_nothing(api: str) -> None:
    looped = Text("So it is. " + "round and round it goes " * 200)
    async with pool(lanes("vllm", looped, sound=(Text("So it is. Done.\n"), LS))) as running:
        found = await got(running, api)
        assert (found.text, found.parsed, found.error) == ("So it is. Done.\n", [GOOD], None)
        assert [record.state for record in await running.incidents()] == ["recovered"]


async def test_a_demanded_form_is_begun_anew() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    upstream = lanes("vllm", Text("well well well well well <tool_call>\n"), sound=(Text("{}"),))
    async with pool(upstream) as running:
        found = await got(running, CHAT, response_format=form)
        assert (found.text, found.error) == ("{}", None)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("parts", [(Text("So far"),), (Text("So far"), LS, LS)], ids=["text", "call"])
async def test_where_both_lanes_fail_it_is_an_error_and_no_part_of_a_response(api: str, parts: Any) -> None:
    dies = Reply(parts, "abort")
    async with pool(two_lanes("vllm", Lane(dies), Lane(dies))) as running:
        found = await got(running, api)
        assert found.status == 502
        assert "gave the response up" in (found.error or "")
        assert {record.state for record in await running.incidents()} == {"ended"}


@pytest.mark.parametrize("api", APIS)
async def test_what_ends_by_a_notice_says_what_came_before(api: str) -> None:
    bad = (Text("I list it.\n"), BAD)
    async with pool(lanes("vllm", *bad, sound=bad)) as running:
        found = await got(running, api)
        assert found.text.startswith("I list it.\n")
        assert found.text.count("[specguard]") == 1
        assert (found.parsed, found.error) == ([], None)


async def test_an_observer_delivers_what_the_lane_says() -> None:
    upstream = lanes("vllm", Text("so "), BAD, sound=(LS,))
    async with pool(upstream, guard={"action": "observe"}) as running:
        found = await got(running, CHAT)
        assert (found.text, found.parsed) == ("so ", [("ls", {"pth": "src"})])
