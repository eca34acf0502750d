"""Responses of which the client gets nothing before their end: nothing of them is delivered until then, so that an
attempt that went wrong leaves no trace in them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.proxy.lanes.pool import known, pool, two_lanes
from tests.proxy.lanes.told import APIS, body
from tests.proxy.live import CHAT, MESSAGES
from tests.upstreams.dialects import KINDS, Kind
from tests.upstreams.lanes import Lane
from tests.upstreams.replies import Call, Reply, Text, Thinking

LS, BAD = Call("ls", {"path": "src"}), Call("ls", {"pth": "src"})
GOOD = ("ls", {"path": "src"})


@dataclass(slots=True)
class Got:
    status: int
    text: str = ""
    thinking: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    error: str = ""


def got(api: str, status: int, answer: bytes) -> Got:
    found, value = Got(status), json.loads(answer)
    if status != 200:
        found.error = value["error"]["message"]
        return found
    if api == CHAT:
        message = value["choices"][0]["message"]
        found.text, found.thinking = message["content"] or "", message.get("reasoning_content", "")
        calls = [each["function"] for each in message.get("tool_calls", ())]
        found.calls = [(each["name"], json.loads(each["arguments"])) for each in calls]
        return found
    for item in value["content" if api == MESSAGES else "output"]:
        match item["type"]:
            case "text":
                found.text += item["text"]
            case "message":
                found.text += "".join(part["text"] for part in item["content"])
            case "thinking":
                found.thinking += item["thinking"]
            case "reasoning":
                found.thinking += "".join(part["text"] for part in item["content"])
            case "tool_use":
                found.calls.append((item["name"], item["input"]))
            case "function_call":
                found.calls.append((item["name"], json.loads(item["arguments"])))
    return found


def lanes(kind: Kind, *parts: Any, sound: tuple[Any, ...], end: Any = "stop") -> Any:
    return two_lanes(kind, Lane(Reply(parts, end), width=4, speculation="mtp"), Lane(Reply(sound)))


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("kind", KINDS)
async def test_behind_text_it_begins_anew_also_where_no_text_can_be_continued(kind: Kind, api: str) -> None:
    upstream = lanes(kind, Text("I list it all, and then some. "), BAD, sound=(Text("I do.\n"), LS))
    async with pool(upstream, known(kind, prefill=False)) as running:
        found = got(api, *await running.post(api, body(api, stream=False)))
        assert (found.text, found.calls, found.error) == ("I do.\n", [GOOD], "")
        (fast,), (plain,) = upstream.of("fast"), upstream.of("plain")
        assert plain.body["messages"] == fast.body["messages"]
        (record,) = await running.incidents()
        assert (record.state, record.opened["rewound_to"]) == ("recovered", 0)


@pytest.mark.parametrize("api", APIS)
async def test_also_where_a_text_could_be_continued(api: str) -> None:
    """What was said before it went wrong may have been part of it."""
    upstream = lanes("vllm", Text("I list it all, and then some. "), BAD, sound=(Text("I do.\n"), LS))
    async with pool(upstream) as running:
        found = got(api, *await running.post(api, body(api, stream=False)))
        assert (found.text, found.calls, found.error) == ("I do.\n", [GOOD], "")


@pytest.mark.parametrize("api", APIS)
async def test_behind_a_call_it_begins_anew(api: str) -> None:
    upstream = lanes("vllm", Text("Both.\n"), LS, BAD, sound=(Text("Two.\n"), LS, LS))
    async with pool(upstream) as running:
        found = got(api, *await running.post(api, body(api, stream=False)))
        assert (found.text, found.calls, found.error) == ("Two.\n", [GOOD, GOOD], "")


@pytest.mark.parametrize("api", APIS)
async def test_only_the_thoughts_of_the_attempt_that_is_told_are(api: str) -> None:
    upstream = lanes("vllm", Thinking("I look.\n"), BAD, sound=(Thinking("I see.\n"), LS))
    async with pool(upstream) as running:
        found = got(api, *await running.post(api, body(api, stream=False)))
        assert (found.thinking, found.calls, found.error) == ("I see.\n", [GOOD], "")


@pytest.mark.parametrize("api", APIS)
async def test_a_loop_leaves_nothing(api: str) -> None:
    looped = Text("So it is. " + "round and round it goes " * 200)
    async with pool(lanes("vllm", looped, sound=(Text("So it is. Done.\n"), LS))) as running:
        found = got(api, *await running.post(api, body(api, stream=False)))
        assert (found.text, found.calls, found.error) == ("So it is. Done.\n", [GOOD], "")
        assert [record.state for record in await running.incidents()] == ["recovered"]


async def test_a_demanded_form_is_begun_anew() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    upstream = lanes("vllm", Text("well well well well well <tool_call>\n"), sound=(Text("{}"),))
    async with pool(upstream) as running:
        found = got(CHAT, *await running.post(CHAT, body(CHAT, stream=False, response_format=form)))
        assert (found.text, found.error) == ("{}", "")


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("parts", [(Text("So far"),), (Text("So far"), LS, LS)], ids=["text", "call"])
async def test_where_both_lanes_fail_it_is_an_error_and_no_part_of_a_response(api: str, parts: Any) -> None:
    dies = Reply(parts, "abort")
    async with pool(two_lanes("vllm", Lane(dies), Lane(dies))) as running:
        found = got(api, *await running.post(api, body(api, stream=False)))
        assert found.status == 502
        assert "gave the response up" in found.error
        assert {record.state for record in await running.incidents()} == {"ended"}


@pytest.mark.parametrize("api", APIS)
async def test_what_ends_by_a_notice_says_what_came_before(api: str) -> None:
    bad = (Text("I list it.\n"), BAD)
    async with pool(lanes("vllm", *bad, sound=bad)) as running:
        found = got(api, *await running.post(api, body(api, stream=False)))
        assert found.text.startswith("I list it.\n")
        assert found.text.count("[specguard]") == 1
        assert (found.calls, found.error) == ([], "")


async def test_an_observer_delivers_what_the_lane_says() -> None:
    upstream = lanes("vllm", Text("so "), BAD, sound=(LS,))
    async with pool(upstream, guard={"action": "observe"}) as running:
        found = got(CHAT, *await running.post(CHAT, body(CHAT, stream=False)))
        assert (found.text, found.calls) == ("so ", [("ls", {"pth": "src"})])
