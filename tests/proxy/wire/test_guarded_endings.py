"""How the three APIs tell that the guard ended or healed a response: their own honest reason, and our marker."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policies.notice import MARKER
from tests.proxy.live import (
    ANTHROPIC_TOOLS,
    CHAT,
    MESSAGES,
    OPENAI_TOOLS,
    RESPONSES,
    RESPONSES_TOOLS,
    Live,
    payloads,
    serving,
)
from tests.proxy.played import LS
from tests.proxy.scripted import Script, call_text

LOOP = "I will" + " go on" * 2000
RM = call_text("rm", path="src")
TOOLS: dict[str, list[Any]] = {CHAT: OPENAI_TOOLS, MESSAGES: ANTHROPIC_TOOLS, RESPONSES: RESPONSES_TOOLS}
WIRES = pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])


def told(path: str, body: Any) -> tuple[str, str]:
    """Text and reason of a whole response."""
    if path == CHAT:
        (choice,) = body["choices"]
        return choice["message"]["content"], choice["finish_reason"]
    if path == MESSAGES:
        return "".join(block.get("text", "") for block in body["content"]), body["stop_reason"]
    texts = [part["text"] for item in body["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(texts), body["status"]


def streamed(path: str, frames: list[Any]) -> tuple[str, str]:
    """The same, of a stream."""
    if path == CHAT:
        choices = [frame["choices"][0] for frame in frames if frame != "[DONE]" and frame["choices"]]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        (reason,) = {choice["finish_reason"] for choice in choices} - {None}
        return text, reason
    if path == MESSAGES:
        deltas = [frame["delta"] for frame in frames if "delta" in frame]
        (reason,) = [delta["stop_reason"] for delta in deltas if "stop_reason" in delta]
        return "".join(delta.get("text", "") for delta in deltas), reason
    text = "".join(frame["delta"] for frame in frames if frame["type"] == "response.output_text.delta")
    return text, frames[-1]["response"]["status"]


REASONS = {CHAT: "stop", MESSAGES: "end_turn", RESPONSES: "completed"}


@WIRES
async def test_a_loop_of_the_model_ends_with_the_apis_reason_and_our_marker(path: str) -> None:
    async with serving(Script(LOOP)) as live:
        room = {"max_tokens": 5000} if path == MESSAGES else {}
        whole = told(path, (await live.post(path, **room)).json)
        stream = streamed(path, payloads((await live.post(path, stream=True, **room)).body))
        (first, _) = await live.incidents()
    for text, reason in (whole, stream):
        assert reason == REASONS[path]
        assert text.startswith("I will go on")
        assert text.count(" go on") <= 48
        assert text.endswith(f"{MARKER} Stopped: the model repeats the same 2 tokens in its text, 512 times by now.")
    assert (first.culprit, first.opened["rule"]) == ("model", "loop")


@WIRES
async def test_an_invalid_call_of_the_model_leaves_no_bytes_of_it(path: str) -> None:
    async with serving(Script(f"so {RM}")) as live:
        answers = [await live.post(path, tools=TOOLS[path], stream=stream) for stream in (False, True)]
        text, reason = told(path, answers[0].json)
    assert (text.startswith(f"so\n\n{MARKER}"), reason) == (True, REASONS[path])
    for answer in answers:
        assert b"<tool_call" not in answer.body
        assert b"src" not in answer.body


@WIRES
async def test_a_stream_that_was_rewound_goes_on_as_if_nothing_had_been(path: str) -> None:
    """No second start event, indices continue, nothing repeated: byte for byte what plain decoding sends."""
    async with (
        serving(Script(f"so {LS}", fast=f"so {RM}", width=1)) as healed,
        serving(Script(f"so {LS}", width=1)) as sound,
    ):
        one = events(path, await stream_of(healed, path))
        other = events(path, await stream_of(sound, path))
    assert one == other
    starts = [frame for frame in one if "message_start" in frame or "response.created" in frame]
    assert len(starts) == (0 if path == CHAT else 1)


async def stream_of(live: Live, path: str) -> list[Any]:
    return payloads((await live.post(path, tools=TOOLS[path], stream=True)).body)


def events(path: str, frames: list[Any]) -> list[str]:
    """Frames without what may differ: ids, times, and the numbers that the last frames report."""
    varying = {
        "id",
        "created",
        "created_at",
        "completed_at",
        "usage",
        "timings",
        "item_id",
        "call_id",
        "specguard",
        "mode",
    }

    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: stripped(each) for key, each in value.items() if key not in varying}
        return [stripped(each) for each in value] if isinstance(value, list) else value

    return [json.dumps(stripped(frame), sort_keys=True) for frame in frames]


@WIRES
async def test_a_client_picks_a_policy_and_is_told_which(path: str, tmp_path: Any) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('[[override]]\nname = "once"\nmax_rewinds = 0\n[[override]]\nname = "trial"\naction = "observe"\n')
    async with serving(Script(f"so {LS}", fast=f"so {RM}"), guard={"policy": str(file)}) as live:
        body = {"model": "scripted", "input" if path == RESPONSES else "messages": [{"role": "user", "content": "go"}]}
        body |= {"tools": TOOLS[path], "max_tokens": 500} if path == MESSAGES else {"tools": TOOLS[path]}
        once = await live.ask("POST", path, body, x_specguard_policy="once")
        healed = await live.ask("POST", path, body)
        trial = await live.ask("POST", path, body, x_specguard_policy="trial")
        unknown = await live.ask("POST", path, body, x_specguard_policy="twice")
        first = (await live.incidents())[-1]
    assert MARKER not in healed.body.decode()
    assert "x-specguard-policy" not in healed.headers
    assert MARKER in once.body.decode()
    assert once.headers["x-specguard-policy"] == "once"
    assert (trial.status, unknown.status) == (403, 400)
    assert "observe_by_header" in trial.json["error"]["message"]
    assert "known: once, trial" in unknown.json["error"]["message"]
    assert (first.opened["origin"]["override"], first.opened["action"]) == ("once", "end")
