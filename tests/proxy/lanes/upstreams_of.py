"""Scripted servers for tests of probes, canaries and the meter: models that can count, and targets to reach them.

Must not: know what a probe asks beyond that it counts. Invariant: a lane's answer depends on its prompt alone.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from proxy.lanes.asking import Target
from tests.upstreams.lanes import Asked, Lane
from tests.upstreams.replies import Reply, Text
from tests.upstreams.server import Upstream

COUNT = Text(", ".join(str(number) for number in range(1, 41)))
FOXES = Text("\n".join(["the quick brown fox jumps over the lazy dog"] * 4))


def answer(asked: Asked) -> Reply:
    """Counts when it is told to, repeats a line when it is told to, else it is polite."""
    text = str(asked.messages[0]["content"])
    if re.search("count from", text, re.IGNORECASE):
        return Reply((COUNT,))
    return Reply((FOXES if "fox" in text else Text("A lighthouse shows ships where the coast is."),))


def able(**options: Any) -> Lane:
    """A lane whose model counts."""
    return Lane(says=answer, **options)


def at(up: Upstream, model: str = "m", **options: Any) -> Target:
    """Where a scripted server is."""
    return Target("fast", f"{up.base}/v1", model, **options)


@asynccontextmanager
async def serving(**pages: Any) -> AsyncIterator[str]:
    """A server with a page for each name (underscores are slashes); a page is what it answers, or a handler."""

    def handler(page: Any) -> Any:
        async def answered(_: web.Request) -> web.Response:
            return page if isinstance(page, web.Response) else web.json_response(page)

        return page if callable(page) and not isinstance(page, web.Response) else answered

    app = web.Application()
    for name, page in pages.items():
        app.router.add_route("*", "/" + name.replace("__", "\0").replace("_", "/").replace("\0", "_"), handler(page))
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
