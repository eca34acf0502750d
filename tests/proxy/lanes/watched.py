"""A scripted backend of two lanes, each with a scripted server behind it: for tests of what watches over lanes.

Must not: speak to the servers itself; its responses are scripted. Invariant: its servers are what probing has found.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from policies.modes import PLAIN, DecodeMode
from proxy.lanes.probe import Probed, probe
from proxy.lanes.watch import LaneWatch
from tests.proxy.lanes.upstreams_of import able, at
from tests.proxy.scripted import ScriptedBackend
from tests.upstreams.lanes import Lane
from tests.upstreams.server import Upstream

FAST = DecodeMode("mtp", "full")


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    mode: DecodeMode
    probed: Probed


class LanesOf(ScriptedBackend):
    """servers: as the real backend has them."""

    def __init__(self, *servers: Server, **options: Any) -> None:
        super().__init__(**options)
        self.servers = servers
        self.watch: LaneWatch | None = None
        self.capabilities = replace(self.capabilities, modes=("plain", str(FAST)), exactness="unknown")


@asynccontextmanager
async def two_lanes(
    fast: Lane | None = None, plain: Lane | None = None, **server: Any
) -> AsyncIterator[tuple[tuple[Server, Server], Upstream, Upstream]]:
    """vLLM twice, drafting and not."""
    lane = fast or able(width=4, speculation="eagle3", kv="fp8")
    async with (
        Upstream("vllm", {"m": lane}, **server).running() as one,
        Upstream("vllm", {"m": plain or able()}).running() as other,
    ):
        servers = (
            Server("fast", FAST, await probe(at(one))),
            Server("plain", PLAIN, await probe(replace(at(other), name="plain"))),
        )
        yield servers, one, other
