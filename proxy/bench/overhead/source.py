"""The scripted source: a process that answers every chat completion with the same text, one word at a time, at a pace.

Must not: depend on the request, which it reads to its end and no further.
Invariant: word n leaves n * `gap_s` after the first one, however long the client takes to read.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from aiohttp import web

from proxy.bench.overhead.processes import serve_until_told
from proxy.sse import DONE, frame

TEXT = (
    "The harbour master opened the ledger before noon and counted every crate that the grey ship had brought, while "
    "two bakers argued about flour, rain began to fall on the market, and nobody saw how quietly a lantern went out "
    "behind the old mill where my sister keeps her painted boats."
)
WORDS = [word if index == 0 else f" {word}" for index, word in enumerate(TEXT.split())]


def chunk(delta: dict[str, str], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    head = {"id": "chatcmpl-source", "object": "chat.completion.chunk", "created": 0, "model": "source"}
    return frame(head | {"choices": [choice]})


FRAMES = [chunk({"role": "assistant", "content": WORDS[0]}), *(chunk({"content": word}) for word in WORDS[1:])]
END = chunk({}, "stop") + DONE


def application(gap_s: float) -> web.Application:
    async def answer(http: web.Request) -> web.StreamResponse:
        await http.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(http)
        began = time.monotonic()
        for number, data in enumerate(FRAMES):
            await asyncio.sleep(max(0.0, began + number * gap_s - time.monotonic()))
            await response.write(data)
        await response.write(END)
        return response

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/chat/completions", answer)
    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gap-s", type=float, required=True)
    app = application(parser.parse_args().gap_s)
    asyncio.run(serve_until_told(web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)))


if __name__ == "__main__":
    main()
