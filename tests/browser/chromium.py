"""A headless Chromium, driven over its own debugging protocol: opens a page, asks it questions, takes pictures.

Must not: decide what is right about a page, fetch a browser, or leave one behind.
Invariant: every request and every complaint of a page is kept, from before it is opened until it is closed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chromium-headless-shell", "chrome")
STARTS_S, ANSWERS_S = 60, 60
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # its sandbox does not run as root; what is opened is a file of ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-address=127.0.0.1",
    "--remote-debugging-port=0",
)


def found() -> str:
    """The browser of this machine, or empty. SPECGUARD_BROWSER names another one."""
    named = os.environ.get("SPECGUARD_BROWSER", "")
    return next(filter(None, (shutil.which(name) for name in ([named] if named else NAMES))), "")


class Page:
    """requests: addresses that were asked for. complaints: errors and warnings, of the console, scripts and network."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self.requests: list[str] = []
        self.complaints: list[str] = []

    async def listen(self) -> None:
        async for message in self._socket:
            told = message.json()
            if (waiting := self._waiting.pop(told.get("id", 0), None)) is not None:
                waiting.set_result(told)
            else:
                self._heard(told.get("method", ""), told.get("params", {}))

    def _heard(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Page.loadEventFired":
                self._loaded.set()
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(params["entry"]["text"])

    async def tell(self, method: str, **params: Any) -> dict[str, Any]:
        """Raises AssertionError for what the browser refuses."""
        number = next(self._numbers)
        self._waiting[number] = answer = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        told = await asyncio.wait_for(answer, ANSWERS_S)
        assert "error" not in told, f"{method}: {told['error']}"
        result: dict[str, Any] = told["result"]
        return result

    async def show(self, address: str, width: int, height: int, dark: bool) -> None:
        """Opens a page as it is on a screen of so many CSS pixels, and waits for its end."""
        phone = width < 600
        await self.tell(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.tell("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded.clear()
        told = await self.tell("Page.navigate", url=address)
        assert not told.get("errorText"), told
        await asyncio.wait_for(self._loaded.wait(), ANSWERS_S)

    async def ask(self, script: str) -> Any:
        """The value of an expression, as JSON data."""
        told = await self.tell("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def picture(self) -> bytes:
        """The whole page as a PNG."""
        told = await self.tell("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(told["data"])


@asynccontextmanager
async def browsing(program: str, folder: Path) -> AsyncIterator[Page]:
    """folder: its profile, home and cache. The browser and all its processes are gone afterwards."""
    process = await asyncio.create_subprocess_exec(
        program,
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")},
        start_new_session=True,
    )
    try:
        port = await asyncio.wait_for(_port(folder / "profile" / "DevToolsActivePort", process), STARTS_S)
        async with aiohttp.ClientSession() as http:
            async with http.get(f"http://127.0.0.1:{port}/json/list") as response:
                target = next(each for each in await response.json() if each["type"] == "page")
            async with http.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                listening = asyncio.create_task(page.listen())
                for part in ("Page", "Runtime", "Network", "Log"):
                    await page.tell(f"{part}.enable")
                yield page
                listening.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await listening
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _port(file: Path, process: asyncio.subprocess.Process) -> int:
    """Written by the browser once it listens."""
    while True:
        assert process.returncode is None, f"the browser has ended with status {process.returncode}"
        if (port := _written(file)) is not None:
            return port
        await asyncio.sleep(0.05)


def _written(file: Path) -> int | None:
    lines = file.read_text().splitlines() if file.is_file() else []
    return int(lines[0]) if lines and lines[0].isdigit() else None
