"""Runs the server in the foreground: load, announce, serve, drain on a signal.

Must not: handle requests itself. Invariant: after the first SIGINT or SIGTERM no new request is taken, running
responses get `server.drain_s` seconds to end, what is left then is told so in its own API's words; a second signal ends
at once, a third one kills. SIGHUP takes up a changed policy file and nothing else; that of a terminal which is closed
ends the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import sys
from collections.abc import Callable

import structlog
from aiohttp import web
from rich.console import Console
from rich.markup import escape

from proxy import logging
from proxy.backends.base import Backend
from proxy.backends.errors import BackendError
from proxy.commands.env import DEFAULT_URL
from proxy.configuration.config import Config, ConfigProblem
from proxy.configuration.needs import check_needs
from proxy.configuration.policy_reload import reload_policy
from proxy.incidents import IncidentStore, Limits
from proxy.server.app import SERVICE, build_backend, create_app, create_runner
from proxy.server.cycles import look_rarely
from proxy.server.readiness import tell_manager
from proxy.server.service import Service

log = structlog.get_logger()
ENDS = (signal.SIGINT, signal.SIGTERM)
_LOADS, _ASKS = "loading the model and checking its exactness ...", "asking the lanes what they can do ..."
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
"""Addresses to listen on that are none to connect to, and what to connect to instead on the same machine."""


def serve(config: Config, build: Callable[[Config], Backend] = build_backend) -> int:
    """Returns the exit status: 0 after a drain, 1 if the model cannot be loaded. Raises ConfigProblem."""
    check_needs(config)
    logging.configure(config.log.level)
    return asyncio.run(_serve(config, build))


async def _serve(config: Config, build: Callable[[Config], Backend]) -> int:
    console = Console(stderr=True, highlight=False)
    try:
        with console.status("starting ..." if config.lanes.configured else "starting the engine (importing torch) ..."):
            backend = await asyncio.to_thread(build, config)
    except BackendError as error:
        raise ConfigProblem(str(error)) from None
    kept = config.incidents
    incidents = IncidentStore(kept.path, kept.capture, Limits(kept.max_mib << 20, kept.max_days))
    incidents.start()
    app = create_app(config, backend, incidents)
    service = app[SERVICE]
    look_rarely()
    runner = create_runner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.server.host, config.server.port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigProblem(_cannot_listen(config, error)) from None
        signals: asyncio.Queue[int] = asyncio.Queue()
        for number in ENDS:
            asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
        reloads = asyncio.create_task(_reload_on_signal(service), name="reload-policy")
        with console.status(_ASKS if config.lanes.configured else _LOADS):
            await _first(service.settled.wait(), signals.get())
        if service.failure:
            print(f"specguard: {service.failure}", file=sys.stderr)
            return 1
        if service.ready:
            port = runner.addresses[0][1]
            # not wrapped, so that a command which is copied or read from a pipe is whole
            Console(highlight=False, emoji=False, soft_wrap=True).print(announcement(config, service, port))
            tell_manager(f"READY=1\nSTATUS=serving {service.backend.info.id} on port {port}")
            await signals.get()
        reloads.cancel()
        await _drain(service, signals, config.server.drain_s, console)
        return 0
    finally:
        await runner.cleanup()


async def _reload_on_signal(service: Service) -> None:
    """For ever. One reload at a time; signals that come meanwhile are one more."""
    asked = asyncio.Event()
    loop, attended = asyncio.get_running_loop(), sys.stderr.isatty()
    loop.add_signal_handler(signal.SIGHUP, asked.set)
    while True:
        await asked.wait()
        asked.clear()
        if attended and not sys.stderr.isatty():  # it was closed: what cannot log any more must not stay
            loop.remove_signal_handler(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
        try:
            await reload_policy(service)
        except Exception:  # whatever it is: the next signal must be heard
            log.exception("policy.not_reloaded")


async def _drain(service: Service, signals: asyncio.Queue[int], limit_s: float, console: Console) -> None:
    """Until nothing runs any more, or what runs was ended."""
    service.draining = True
    tell_manager("STOPPING=1\nSTATUS=finishing running responses")
    if service.in_flight:
        console.print(
            f"finishing {service.in_flight} response(s), at most {limit_s:g} s; press Ctrl-C again to stop now"
        )
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(_first(service.idle.wait(), signals.get()), limit_s)
    if service.in_flight:
        log.warning("server.ends_responses", in_flight=service.in_flight)
    service.ending.end()
    for number in ENDS:  # whoever asks once more does not want to wait for what hangs
        asyncio.get_running_loop().remove_signal_handler(number)


async def _first(*waits: object) -> None:
    """Waits until one of several awaitables is done and cancels the rest."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _cannot_listen(config: Config, error: OSError) -> str:
    host, port = config.server.host, config.server.port
    if error.errno == errno.EADDRINUSE:
        return f"server.port: {port} on {host} is in use; stop what listens there or choose another with --port"
    if error.errno == errno.EACCES:
        return f"server.port: this user may not listen on {port}; choose one above 1023 with --port"
    return f"server.host: cannot listen on {host} ({error.strerror}); use an address of this machine, such as 127.0.0.1"


def announcement(config: Config, service: Service, port: int) -> str:
    """What is served and how to point agents at it, as rich markup."""
    host = ANYWHERE.get(config.server.host, config.server.host).strip("[]")
    base = escape(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
    info, exactness = service.backend.info, service.backend.capabilities.exactness
    key = "YOUR-KEY" if config.server.keys else "local"
    at = "" if base == DEFAULT_URL else f" --url {base}"
    at += f" --key {key}" if config.server.keys else ""
    claim = {
        "bitwise": "bitwise (same seed, same text, speculation on or off)",
        "distribution": "distribution only (this device does not repeat bits)",
    }.get(exactness, exactness)
    fault = f"\n[bold red]planted fault[/]  {escape(config.plant)}" if config.plant else ""
    return f"""[bold]specguard[/] is serving [bold]{escape(info.id)}[/] on [bold]{base}[/]
mode {service.mode}   guard {service.policy.action}   exactness {claim}
context {info.context_window} tokens   incidents {escape(config.incidents.path)}{fault}

[bold]Claude Code[/]
  eval "$(specguard env claude{at})"
[bold]Codex, OpenCode[/]
  specguard env codex{at}      specguard env opencode{at}
[bold]Python SDKs[/]
  openai.OpenAI(base_url="{base}/v1", api_key="{key}")
  anthropic.Anthropic(base_url="{base}", api_key="{key}")
"""
