"""A whole server over a pool of two scripted lanes, and clients for it.

Must not: reach into a handler, or probe lanes by anything but the real probes unless a test says so.
Invariant: when the context ends nothing is left behind: no task, no socket, no file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from aiohttp import web

from proxy.backends.lanes import LanesBackend, Prober
from proxy.configuration.config import Config
from proxy.incidents import IncidentStore, Record
from proxy.lanes.asking import Target
from proxy.lanes.capabilities import LaneCapabilities
from proxy.lanes.probe import Probed
from proxy.server.app import SERVICE, create_app, create_runner
from proxy.server.service import Service
from tests.upstreams.dialects import Kind
from tests.upstreams.lanes import Lane
from tests.upstreams.server import Upstream

FULL: dict[Kind, LaneCapabilities] = {
    "vllm": LaneCapabilities(
        "vllm", "0.33.0", token_ids=True, logprobs=True, prefill=True, cache_salt=True, usage=True, prompt_ids=True
    ),
    "sglang": LaneCapabilities(
        "sglang", "0.5.23", token_ids=True, logprobs=True, prefill=True, cache_salt=True, usage=True
    ),
    "llamacpp": LaneCapabilities(
        "llamacpp", "b1", logprobs=True, logprobs_under_speculation=False, draft_statistics="timings", prefill=True,
        usage=True,
    ),
    "openai": LaneCapabilities("openai", logprobs=True, usage=True),
}  # fmt: skip
"""What probing finds of the scripted servers, for tests that are not about probing."""


def known(kind: Kind, **changed: Any) -> Prober:
    """Finds what is known already."""

    async def probed(target: Target) -> Probed:
        plain = FULL[kind].plain() | changed
        return Probed(target, target.model, LaneCapabilities(**plain))

    return probed


@dataclass(slots=True)
class Pool:
    base: str
    upstream: Upstream
    service: Service
    http: aiohttp.ClientSession

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, bytes]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = bytearray()
        async with self.http.post(self.base + path, json=body, headers=names) as response:
            try:
                async for piece in response.content.iter_any():
                    answer += piece
            except aiohttp.ClientError:
                pass  # it was broken off, as it is behind an error
            return response.status, bytes(answer)

    async def incidents(self) -> Sequence[Record]:
        await asyncio.to_thread(self.service.incidents.flush)
        return await asyncio.to_thread(self.service.incidents.list)


@asynccontextmanager
async def pool(
    upstream: Upstream, prober: Prober | None = None, plain: bool = True, **settings: Any
) -> AsyncIterator[Pool]:
    """Lanes `fast` and `plain` of one server, told apart by model name. settings: sections of the configuration."""
    async with upstream.running():
        lanes: dict[str, Any] = {"fast": {"url": upstream.base, "model": "fast"}, **settings.pop("lanes", {})}
        if plain:
            lanes["plain"] = {"model": "plain"} | lanes.get("plain", {})
        with TemporaryDirectory() as folder:
            path = Path(folder) / "incidents.sqlite"
            sections = {"incidents": {"path": str(path)}, "replay": {"automatic": False}, **settings}
            config = Config.model_validate({"lanes": lanes, "breaker": {"canary_tokens": 0}, **sections})
            backend = LanesBackend(config.lanes, prober=prober or known(upstream.kind))
            incidents = IncidentStore(path, False)
            incidents.start()
            app = create_app(config, backend, incidents)
            runner = create_runner(app)
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                service = app[SERVICE]
                async with asyncio.timeout(60):
                    await service.settled.wait()
                assert service.ready, service.failure
                async with aiohttp.ClientSession() as http:
                    yield Pool(f"http://127.0.0.1:{runner.addresses[0][1]}", upstream, service, http)
            finally:
                await runner.cleanup()


def two_lanes(kind: Kind, fast: Lane, plain: Lane | None = None, **options: Any) -> Upstream:
    return Upstream(kind, {"fast": fast, "plain": plain or Lane(fast.says)}, **options)
