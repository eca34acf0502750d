"""This server over the scripted source, as a process of its own.

Must not: leave anything out that a request passes in `specguard serve`, but for the engine.
Invariant: the shipped policy and detectors, incidents in a file, metrics on.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
from pathlib import Path
from tempfile import TemporaryDirectory

from proxy import logging
from proxy.bench.overhead.processes import serve_until_told
from proxy.bench.overhead.relay import RelayBackend
from proxy.configuration.config import Config
from proxy.incidents import IncidentStore
from proxy.server.app import create_app, create_runner


async def _serve(upstream: str, folder: str) -> None:
    config = Config.model_validate({"model": {"any_name": True}, "decode": {"mode": "plain"}})
    store = IncidentStore(Path(folder) / "incidents.sqlite")
    app = create_app(config, RelayBackend(upstream), store)
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
