"""What is measured: the built-in engine behind a server of its own on a loopback port, one for each mode, or any URL.

Must not: import torch at its top, or leave a server, a store or a connection behind.
Invariant: both are asked over HTTP by the same client, so what is measured is what an agent gets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Sized
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from aiohttp import web

from policies.modes import DecodeMode
from proxy.backends.base import Backend, ModelInfo
from proxy.bench.pack.client import NONSENSE, ChatClient
from proxy.bench.pack.scrape import Scrape
from proxy.bench.pack.workloads import WRITES
from proxy.configuration.config import Config, ConfigProblem
from proxy.incidents import IncidentStore
from proxy.server.app import SERVICE, build_backend, create_app, create_runner
from proxy.server.service import Service

SERVED = "served"
"""The mode of a server that is measured as it is."""
WIDENED = 4
"""What a byte of a weight file takes in memory at most: 8 bits become 32."""
MOST_TRIPS = 32
"""Likely ones before a mode is taken out of service: what it does is to be seen, not what plain decoding does instead.
A certain one still does it at once."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One mode of one server. fields: what requests say to get this mode. window: tokens that the model reads, 0 = not
    told. service: of the server, where it runs in this process."""

    mode: str
    client: ChatClient
    model: str
    window: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    service: Service | None = None

    async def detectors(self) -> dict[str, str]:
        """Incident -> who told it; nothing of a server elsewhere, which names incidents and keeps them."""
        if self.service is None:
            return {}
        store = self.service.incidents
        await asyncio.to_thread(store.flush)
        records = await asyncio.to_thread(store.list, 1000)
        return {record.id: str(record.opened["detector"]) for record in records}

    async def scrape(self) -> Scrape:
        """The server's numbers now."""
        return Scrape.parse(await self.client.metrics())


Opening = Callable[[str], AbstractAsyncContextManager[Lane]]


def builtin(config: Config, unguarded: bool = False, build: Callable[[Config], Backend] = build_backend) -> Opening:
    """A server for each mode. unguarded: the guard records what it finds and changes nothing."""

    @asynccontextmanager
    async def opening(mode: str) -> AsyncIterator[Lane]:
        with TemporaryDirectory(prefix="specguard-pack-") as folder:
            own = _quiet(config, mode, unguarded, Path(folder))
            store = IncidentStore(own.incidents.path)
            store.start()
            app = create_app(own, await asyncio.to_thread(build, own), store)
            runner = create_runner(app)
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                service = app[SERVICE]
                await service.settled.wait()
                if service.failure:
                    raise ConfigProblem(service.failure)
                if str(service.mode) != mode:
                    raise ConfigProblem(f"--modes: this model cannot decode in {mode}, only in {service.mode}")
                base = f"http://127.0.0.1:{runner.addresses[0][1]}"
                info = service.backend.info
                async with aiohttp.ClientSession() as http:
                    client = ChatClient(http, base, model=info.id)
                    yield Lane(mode, client, info.id, info.context_window, {}, _about(service, info), service)
            finally:
                await runner.cleanup()

    return opening


@asynccontextmanager
async def opened(opening: Opening, modes: Sequence[str], absent: dict[str, str]) -> AsyncIterator[list[Lane]]:
    """Lanes side by side; of a mode that this model or server lacks, why goes into `absent` instead."""
    async with AsyncExitStack() as stack:
        lanes = []
        for mode in modes:
            try:
                lanes.append(await stack.enter_async_context(opening(mode)))
            except ConfigProblem as problem:
                absent[mode] = str(problem)
        yield lanes


def require_some(found: Sized, absent: Mapping[str, str]) -> None:
    """Raises ConfigProblem where all modes are absent."""
    if absent and not found:
        raise ConfigProblem("\n".join(absent.values()))


def fit_together(config: Config, modes: int) -> bool:
    """Whether so many engines of this configuration may stand side by side: in the memory of the processor alone, whose
    free half they fit into. A CUDA device is given to one at a time, so that what it holds is that mode's."""
    if config.model.device != "cpu":
        return False
    weights = (
        sum(file.stat().st_size for file in Path(config.model.path).glob("*.safetensors")) if config.model.path else 0
    )
    return weights * WIDENED * modes <= _free() / 2


def _free() -> float:
    """Bytes; without limit where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return float("inf")


def elsewhere(url: str, key: str = "", model: str = "") -> Opening:
    """A server that runs already. In mode `served` it is asked for nothing special; any other mode is asked for in each
    request, which specguard understands."""

    @asynccontextmanager
    async def opening(mode: str) -> AsyncIterator[Lane]:
        async with aiohttp.ClientSession() as http:
            probe = ChatClient(http, url, key)
            try:
                served = await probe.models()
            except (aiohttp.ClientError, TimeoutError, *NONSENSE) as error:
                raise ConfigProblem(
                    f"--target: {url} does not list its models ({type(error).__name__}: {error}); name the address of "
                    "an OpenAI-compatible server, and its --key if it wants one"
                ) from None
            if not served or (model and model not in served):
                raise ConfigProblem(f"--served-model: {url} has {', '.join(served) or 'none'}, not {model!r}")
            name = model or served[0]
            client = ChatClient(http, url, key, name)
            fields = {} if mode == SERVED else _asking(mode)
            tried = await client.ask([{"role": "user", "content": "Say yes."}], (), **fields, max_tokens=WRITES)
            if tried.failed:  # before hundreds of requests fail in the same way
                raise ConfigProblem(f"--target: {url} gives no answer in mode {mode}: {tried.failed}")
            yield Lane(mode, client, name, 0, fields, {"target": url})

    return opening


def _asking(mode: str) -> dict[str, Any]:
    decode = DecodeMode.parse(mode)
    drafts = {"types": decode.drafter.split("+")} if decode.speculates else {"enabled": False}
    return {"speculative": drafts, "kv": decode.codec}


def _quiet(config: Config, mode: str, unguarded: bool, folder: Path) -> Config:
    """As configured, in this mode, with a store of its own, and with nothing that works while nobody asks."""
    changes: dict[str, dict[str, Any]] = {
        "decode": {"mode": mode},
        "incidents": {"path": str(folder / "incidents.sqlite")},
        "trust": {"path": "", "qualification": "", "ceiling_tokens": 0},
        "replay": {"automatic": False},
        "breaker": {"canary_tokens": 0, "trips": MOST_TRIPS},
    }
    if unguarded:
        changes["guard"] = {"action": "observe"}
    sections = {name: getattr(config, name).model_copy(update=values) for name, values in changes.items()}
    return config.model_copy(update=sections)


def _about(service: Service, info: ModelInfo) -> dict[str, str]:
    exactness = service.backend.capabilities.exactness
    return {"fingerprint": info.fingerprint, "exactness": str(exactness), **info.details}
