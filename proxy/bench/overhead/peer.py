"""LiteLLM's proxy in front of the scripted source, from an installation of its own.

Its pins are others than ours (another `rich`, for one), so it is not installed beside us: `--litellm` names the
command of an environment that has `litellm[proxy]`.

Must not: let it call anywhere but the source, or ship its name into anything but this benchmark.
Invariant: it is measured only after it has answered a request through the source.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from proxy.bench.overhead.processes import NotStarted, command, ended

HOW = "python -m venv DIR && DIR/bin/pip install 'litellm[proxy]', then --litellm DIR/bin/litellm"
START_S = 180.0
CONFIG = """\
model_list:
  - model_name: source
    litellm_params: {{model: openai/source, api_base: "{base}/v1", api_key: none}}
litellm_settings: {{telemetry: false, num_retries: 0}}
general_settings: {{disable_spend_logs: true, dangerously_permit_weak_or_unset_master_key: true}}
"""


def found(path: str | None) -> str | None:
    """The command; what was named, else what is on PATH."""
    return shutil.which(path or "litellm")


def version_of(path: str) -> str:
    """From the environment that the command belongs to; "?" if it does not say."""
    folder = Path(path).resolve().parent.parent
    names = sorted(folder.glob("lib/python*/site-packages/litellm-*.dist-info"))
    return names[-1].name.removeprefix("litellm-").removesuffix(".dist-info") if names else "?"


@asynccontextmanager
async def litellm(path: str, source: str, body: bytes) -> AsyncIterator[str]:
    """Its base URL. body: of a request that it must answer first. Raises NotStarted."""
    port = _free_port()
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    environment.pop("PYTHONPATH", None)  # its environment is not ours
    with TemporaryDirectory(prefix="specguard-bench-") as folder:
        config, said = Path(folder) / "config.yaml", Path(folder) / "log"
        config.write_text(CONFIG.format(base=source), encoding="utf-8")
        flags = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
        with said.open("wb") as log:
            process = await command([path, *flags, "--telemetry", "False"], environment, log.fileno())
        try:
            base = f"http://127.0.0.1:{port}"
            await _answers(base, body, process, said)
            yield base
        finally:
            await ended(process, 5.0)


async def _answers(base: str, body: bytes, process: asyncio.subprocess.Process, said: Path) -> None:
    status = "no answer"
    async with aiohttp.ClientSession() as http:
        for _ in range(int(START_S * 2)):
            if process.returncode is not None:
                break
            try:
                url, headers = f"{base}/v1/chat/completions", {"content-type": "application/json"}
                async with http.post(url, data=body, headers=headers) as response:
                    text = await response.text()
                    if response.status == 200 and "harbour" in text:
                        return
                    status = f"status {response.status}: {text[-300:]}"
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.5)
    raise NotStarted(f"LiteLLM does not serve ({status}); its last line: {_last_line(said)}")


def _last_line(log: Path) -> str:
    return " ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:])[:300]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
