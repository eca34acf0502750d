"""The chat client against a scripted server: what it sends, puts together and refuses to believe."""

from __future__ import annotations

from typing import Any

import pytest

from examples.agent.client import ChatClient, ChatError
from examples.agent.transcript import Turn
from tests.examples.agent.scripted_server import ScriptedServer, call_chunks, end_chunks, text_chunks

MESSAGES = [{"role": "user", "content": "hello"}]


async def ask(server: ScriptedServer, **options: Any) -> tuple[Turn, list[str]]:
    pieces: list[str] = []
    async with server.run() as url, ChatClient(url, "scripted", **options) as client:
        return await client.respond(MESSAGES, [], pieces.append, temperature=0), pieces


async def test_text_streams_piece_by_piece() -> None:
    turn, pieces = await ask(ScriptedServer(text_chunks("Hal", "lo ", "日本") + end_chunks("stop")))
    assert pieces == ["Hal", "lo ", "日本"]
    assert (turn.text, turn.finish_reason, turn.calls) == ("Hallo 日本", "stop", [])
    assert turn.usage == {"prompt_tokens": 9, "completion_tokens": 4}
    assert 0 < turn.first_token_s <= turn.seconds


async def test_call_arguments_are_joined_in_order() -> None:
    arguments = '{"path": "größe.py", "old_string": "a\\nb"}'
    chunks = call_chunks(0, "edit_file", arguments, 5) + call_chunks(1, "run_tests", "{}")
    turn, _ = await ask(ScriptedServer(chunks + end_chunks("tool_calls")))
    assert [(c.id, c.name, c.arguments) for c in turn.calls] == [
        ("call_0", "edit_file", arguments),
        ("call_1", "run_tests", "{}"),
    ]
    assert turn.calls[0].parsed() == {"path": "größe.py", "old_string": "a\nb"}


async def test_extension_and_timings_are_kept() -> None:
    extension = {"token_ids": [5, 6, 7], "mode": "plain", "incidents": ["inc_1"]}
    timings = {"predicted_n": 3, "predicted_ms": 30.0, "draft_n": 4, "draft_n_accepted": 2}
    server = ScriptedServer(text_chunks("ok") + end_chunks("stop", specguard=extension, timings=timings))
    turn, _ = await ask(server)
    assert (turn.token_ids, turn.mode, turn.incidents) == ([5, 6, 7], "plain", ["inc_1"])
    assert (turn.tokens_per_second, turn.drafted, turn.accepted) == (100.0, 4, 2)


async def test_request_asks_for_a_stream_with_usage_and_transcript() -> None:
    server = ScriptedServer(end_chunks("stop"))
    await ask(server, api_key="k", session="s1")
    body, headers = server.requests[0], server.headers[0]
    assert (body["model"], body["stream"], body["temperature"]) == ("scripted", True, 0)
    assert body["stream_options"] == {"include_usage": True}
    assert headers["x-specguard-transcript"] == "1"
    assert (headers["Authorization"], headers["x-session-id"]) == ("Bearer k", "s1")


async def test_without_the_extension_nothing_is_invented() -> None:
    turn, _ = await ask(ScriptedServer(text_chunks("ok") + end_chunks("stop")))
    assert (turn.token_ids, turn.mode, turn.incidents, turn.drafted) == ([], "", [], 0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((400, {"error": {"message": "the prompt is too long"}}), "400: the prompt is too long"),
        ((503, {"detail": "starting"}), "503: .*starting"),
        ([*text_chunks("par"), {"error": {"message": "engine fault"}}], "gave up: engine fault"),
        (text_chunks("cut"), "without a finish reason"),
        (["{not json"], "not JSON"),
    ],
)
async def test_what_is_not_a_finished_response_raises(answer: Any, message: str) -> None:
    with pytest.raises(ChatError, match=message):
        await ask(ScriptedServer(answer))


async def test_no_server_raises() -> None:
    async with ChatClient("http://127.0.0.1:9/v1", "m") as client:
        with pytest.raises(ChatError, match="connection"):
            await client.respond(MESSAGES, [], lambda _: None)
        with pytest.raises(ChatError, match="cannot list"):
            await client.first_model()


async def test_first_model() -> None:
    async with ScriptedServer().run() as url, ChatClient(url, "") as client:
        assert await client.first_model() == "scripted"
