"""This server over two scripted lanes, as a process of its own.

Must not: leave anything out that a request passes in `specguard serve` with a pool, but for the probes at the start.
Invariant: the shipped policy and detectors, incidents in a file, metrics on; `GET /cpu` tells the processor seconds
that the process has used.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from aiohttp import web

from proxy import logging
from proxy.backends.lanes import LanesBackend
from proxy.bench.overhead.processes import serve_until_told
from proxy.configuration.config import Config
from proxy.incidents import IncidentStore
from proxy.lanes.asking import Target
from proxy.lanes.capabilities import LaneCapabilities
from proxy.lanes.probe import Probed
from proxy.server.app import create_app, create_runner

CAN = LaneCapabilities("vllm", "0", token_ids=True, prefill=True, cache_salt=True, usage=True, context_window=1 << 20)


async def probed(target: Target) -> Probed:
    """What the scripted lane can do is known."""
    return Probed(target, target.model, CAN)


async def cpu(_: web.Request) -> web.Response:
    return web.json_response(time.process_time())


async def _serve(upstream: str, folder: str) -> None:
    lanes = {"fast": {"url": upstream, "model": "fast"}, "plain": {"model": "plain"}}
    sections = {"lanes": lanes, "model": {"any_name": True}, "breaker": {"canary_tokens": 0, "trips": 32}}
    config = Config.model_validate(sections)
    store = IncidentStore(Path(folder) / "incidents.sqlite")
    store.start()
    app = create_app(config, LanesBackend(config.lanes, prober=probed), store)
    app.router.add_get("/cpu", cpu)
    gc.collect()
    gc.freeze()  # as in `proxy.server.serve`
    await serve_until_told(create_runner(app))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", required=True)
    upstream = parser.parse_args().upstream
    logging.configure("error")
    with TemporaryDirectory(prefix="specguard-bench-") as folder:
        asyncio.run(_serve(upstream, folder))


if __name__ == "__main__":
    main()
