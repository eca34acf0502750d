"""The least that a hop can be: a process that passes bytes on between client and source, and looks at none.

Must not: parse anything. Invariant: what it adds is what aiohttp and one more process cost, so a server that is built
on aiohttp cannot add less.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

from proxy.bench.overhead.processes import cpu, serve_until_told

HTTP: web.AppKey[aiohttp.ClientSession] = web.AppKey("http", aiohttp.ClientSession)


def application(upstream: str) -> web.Application:
    """upstream: base URL of the source."""

    async def forward(http: web.Request) -> web.StreamResponse:
        url, headers = f"{upstream}{http.path}", {"content-type": "application/json"}
        async with http.app[HTTP].post(url, data=await http.read(), headers=headers) as answer:
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
            await response.prepare(http)
            async for data in answer.content.iter_any():
                await response.write(data)
        return response

    async def client(app: web.Application) -> AsyncIterator[None]:
        connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
        app[HTTP] = aiohttp.ClientSession(connector=connector, timeout=timeout)
        yield
        await app[HTTP].close()

    app = web.Application(client_max_size=64 << 20)
    app.cleanup_ctx.append(client)
    app.router.add_post("/v1/chat/completions", forward)
    app.router.add_get("/cpu", cpu)
    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", required=True)
    app = application(parser.parse_args().upstream)
    asyncio.run(serve_until_told(web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)))


if __name__ == "__main__":
    main()
