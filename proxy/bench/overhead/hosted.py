"""This server over a scripted source, as a process of its own: over one that relays, or over a pool of lanes.

Must not: leave anything out that a request passes in `specguard serve`, but for the engine, or the probes of lanes.
Invariant: the shipped policy and detectors, incidents in a file, metrics on; `GET /cpu` tells the processor seconds
that the process has used.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from proxy import logging
from proxy.backends.base import Backend
from proxy.backends.lanes import LanesBackend
from proxy.bench.overhead.processes import cpu, serve_until_told
from proxy.bench.overhead.relay import RelayBackend
from proxy.configuration.config import Config
from proxy.incidents import IncidentStore
from proxy.lanes.asking import Target
from proxy.lanes.capabilities import LaneCapabilities
from proxy.lanes.probe import Probed
from proxy.server.app import create_app, create_runner
from proxy.server.cycles import look_rarely

CAN = LaneCapabilities("vllm", "0", token_ids=True, prefill=True, cache_salt=True, usage=True, context_window=1 << 20)


async def probed(target: Target) -> Probed:
    """What the scripted lane can do is known."""
    return Probed(target, target.model, CAN)


def _guarded(upstream: str, lanes: bool) -> tuple[Config, Backend]:
    sections: dict[str, Any] = {"model": {"any_name": True}}
    if not lanes:
        return Config.model_validate(sections | {"decode": {"mode": "plain"}}), RelayBackend(upstream)
    sections["lanes"] = {"fast": {"url": upstream, "model": "fast"}, "plain": {"model": "plain"}}
    config = Config.model_validate(sections | {"breaker": {"canary_tokens": 0, "trips": 32}})
    return config, LanesBackend(config.lanes, prober=probed)


async def _serve(upstream: str, lanes: bool, folder: str) -> None:
    config, backend = _guarded(upstream, lanes)
    store = IncidentStore(Path(folder) / "incidents.sqlite")
    store.start()
    app = create_app(config, backend, store)
    app.router.add_get("/cpu", cpu)
    look_rarely()
    await serve_until_told(create_runner(app))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--lanes", action="store_true")
    options = parser.parse_args()
    logging.configure("error")
    with TemporaryDirectory(prefix="specguard-bench-") as folder:
        asyncio.run(_serve(options.upstream, options.lanes, folder))


if __name__ == "__main__":
    main()
