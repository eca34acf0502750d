"""A scripted lane: a process that answers in vLLM's dialect, with token ids, words or a call, at a pace.

Must not: depend on the request beyond its model's name and whether its last message asks for a call.
Invariant: model `fast` makes a call that no schema allows, model `plain` a valid one, both at once; their words, at the
same pace, are the same.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import orjson
from aiohttp import web

from proxy.bench.overhead.processes import serve_until_told
from proxy.sse import DONE, frame

CALL_WORD = "CALL"
SYLLABLES = "ba ce di fo gu ha je ki lo mu na pe qi ro su ta ve wi xo yu za".split()
COUNT = 240
CALLS = {"fast": '{"pth": "src"}', "plain": '{"path": "src"}'}


def words() -> list[str]:
    """Prose without a pattern."""
    draw = random.Random(7)
    return [" " + "".join(draw.choices(SYLLABLES, k=draw.randint(1, 3))) for _ in range(COUNT)]


def chunk(model: str, delta: dict[str, Any], ids: Sequence[int], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": list(ids)}
    head = {"id": "chatcmpl-lane", "object": "chat.completion.chunk", "created": 0, "model": model}
    return frame(head | {"choices": [choice]})


def text_frames(model: str, width: int) -> list[bytes]:
    """width: tokens of a chunk, as many as a step of speculation gives."""
    said = words()
    groups = [said[at : at + width] for at in range(0, len(said), width)]
    frames = [
        chunk(model, {"content": "".join(group)}, [1000 + number * width + n for n in range(len(group))])
        for number, group in enumerate(groups)
    ]
    return [*frames, _end(model, "stop")]


def call_frames(model: str) -> list[bytes]:
    opened = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "read_file", "arguments": ""}}
    more = {"index": 0, "function": {"arguments": CALLS[model]}}
    return [
        chunk(model, {"tool_calls": [opened]}, [1]),
        chunk(model, {"tool_calls": [more]}, [2]),
        _end(model, "tool_calls"),
    ]


def _end(model: str, reason: str) -> bytes:
    usage = {"prompt_tokens": 9, "completion_tokens": COUNT, "total_tokens": COUNT + 9}
    return chunk(model, {}, [2], reason) + frame({"choices": [], "usage": usage}) + DONE


def application(gap_s: float, width: int) -> web.Application:
    said = {(model, False): text_frames(model, width) for model in CALLS}
    said |= {(model, True): call_frames(model) for model in CALLS}

    async def answer(http: web.Request) -> web.StreamResponse:
        body = orjson.loads(await http.read())
        model = body.get("model") if body.get("model") in CALLS else "plain"
        asks = CALL_WORD in str(body["messages"][-1]["content"])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(http)
        began = time.monotonic()
        for number, data in enumerate(said[model, asks]):
            await asyncio.sleep(0 if asks else max(0.0, began + number * gap_s - time.monotonic()))
            await response.write(data)
        return response

    async def models(_: web.Request) -> web.Response:
        """By which the guard sees, now and then, that the server is there."""
        return web.json_response({"object": "list", "data": [{"id": model, "object": "model"} for model in CALLS]})

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_get("/v1/models", models)
    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gap-s", type=float, required=True)
    parser.add_argument("--width", type=int, default=1)
    options = parser.parse_args()
    app = application(options.gap_s, options.width)
    asyncio.run(serve_until_told(web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)))


if __name__ == "__main__":
    main()
