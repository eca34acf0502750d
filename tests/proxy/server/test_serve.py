"""The server as a process: what it announces, how it ends, and what it says when it cannot start.

Must not: load torch; a scripted backend stands in for the engine.
Invariant: when a test ends, so has its process.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from policies.modes import DecodeMode
from policies.policy import Policy
from proxy.backends.base import ModelInfo
from proxy.configuration.config import Config, ConfigProblem
from proxy.incidents import IncidentStore
from proxy.server.serve import _reload_on_signal, announcement, serve
from proxy.server.service import Service
from tests.proxy.live import CHAT, body_for
from tests.proxy.scripted import ScriptedBackend

ROOT = Path(__file__).parents[3]
LIMIT_S = 100
MAIN = """
import asyncio, json, sys
from proxy.backends.errors import BackendError
from proxy.configuration.config import Config
from proxy.server.serve import serve
from tests.proxy.scripted import ScriptedBackend

class Backend(ScriptedBackend):
    async def start(self):
        if {failing}:
            raise BackendError("model.path: there is nothing in it")

async def never():
    await asyncio.Event().wait()

backend = Backend("fine", **({{"pace": never}} if {stuck} else {{}}))
sys.exit(serve(Config.model_validate(json.loads({config!r})), lambda config: backend))
"""


@contextmanager
def process(folder: Path, stuck: bool = False, failing: bool = False, **server: Any) -> Iterator[subprocess.Popen[str]]:
    config = {"server": {"port": 0} | server, "incidents": {"path": str(folder / "incidents.sqlite")}}
    code = MAIN.format(config=json.dumps(config), stuck=stuck, failing=failing)
    started = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with started:
        try:
            yield started
        finally:
            started.kill()


def address_of(server: subprocess.Popen[str]) -> str:
    """Reads the first line that is announced."""
    assert server.stdout is not None
    found = re.search(r"http://\S+$", server.stdout.readline())
    assert found
    return found[0]


def test_what_a_pipe_gets_and_the_end_by_a_signal(tmp_path: Path) -> None:
    with process(tmp_path) as server:
        base = address_of(server)
        with urllib.request.urlopen(f"{base}/ready") as answer:
            assert json.load(answer)["ready"]
        server.send_signal(signal.SIGTERM)
        assert server.stdout is not None and server.stderr is not None
        out, err = server.stdout.read(), server.stderr.read()
        assert server.wait(LIMIT_S) == 0
    assert "\x1b" not in out
    lines = out.splitlines()
    assert (
        f'  eval "$(specguard env claude --url {base})"' in lines
        and f"  specguard env codex --url {base}      specguard env opencode --url {base}" in lines
        and f'  anthropic.Anthropic(base_url="{base}", api_key="local")' in lines
    ), out
    assert max(map(len, lines)) > 80, "the case that a narrow console would wrap"
    assert [json.loads(line)["event"] for line in err.splitlines()] == ["model.ready"]


def test_a_response_gets_time_to_end_and_a_second_signal_takes_it(tmp_path: Path) -> None:
    with process(tmp_path, stuck=True, drain_s=3600, keepalive_s=0.1) as server:
        assert server.stderr is not None
        host = address_of(server).removeprefix("http://")
        client = HTTPConnection(host)
        client.request("POST", CHAT, json.dumps(body_for(CHAT, stream=True)), {"content-type": "application/json"})
        client.getresponse()
        server.send_signal(signal.SIGINT)
        line = server.stderr.readline()
        while "finishing" not in line:
            assert line, "the server ended instead of waiting"
            line = server.stderr.readline()
        assert "finishing 1 response(s), at most 3600 s" in line
        other = HTTPConnection(host)
        other.request("POST", CHAT, json.dumps(body_for(CHAT)))
        assert other.getresponse().status == 503
        server.send_signal(signal.SIGINT)
        assert server.wait(LIMIT_S) == 0
        client.close()
        other.close()


def test_a_model_that_does_not_load(tmp_path: Path) -> None:
    with process(tmp_path, failing=True) as server:
        out, err = server.communicate(timeout=LIMIT_S)
    assert (server.returncode, out) == (1, "")
    assert err.splitlines()[-1] == "specguard: model.path: there is nothing in it"


def config_for(folder: Path, **sections: dict[str, Any]) -> Config:
    return Config.model_validate({"incidents": {"path": str(folder / "incidents.sqlite")}} | sections)


def refusal(config: Config) -> str:
    with pytest.raises(ConfigProblem) as caught:
        serve(config, lambda _: ScriptedBackend("fine"))
    return str(caught.value)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = refusal(config_for(tmp_path, server={"port": port}))
    assert (
        message == f"server.port: {port} on 127.0.0.1 is in use; stop what listens there or choose another with --port"
    )


def test_an_address_that_is_not_here(tmp_path: Path) -> None:
    message = refusal(config_for(tmp_path, server={"host": "192.0.2.1", "port": 0, "keys": ["k"]}))
    assert message.startswith("server.host: cannot listen on 192.0.2.1 (")
    assert message.endswith("use an address of this machine, such as 127.0.0.1")


def test_paths_that_cannot_be_used(tmp_path: Path) -> None:
    message = refusal(config_for(tmp_path, model={"path": str(tmp_path / "nowhere")}))
    assert message == f"model.path: there is no folder {tmp_path / 'nowhere'}; name one that holds a model"
    message = refusal(config_for(tmp_path, incidents={"path": str(tmp_path)}))
    assert message == f"incidents.path: {tmp_path} is a folder; name a file in it"


def announced(name: str = "scripted", **sections: Any) -> str:
    backend = ScriptedBackend("fine")
    backend.info = replace(ModelInfo("", "", 8192), id=name)
    config = Config.model_validate(sections)
    store = IncidentStore(config.incidents.path)
    return announcement(config, Service(config, backend, store, Policy(), DecodeMode("ngram")), 9000)


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("127.0.0.1", "http://127.0.0.1:9000"),
        ("localhost", "http://localhost:9000"),
        ("::1", "http://[::1]:9000"),
        ("[::1]", "http://[::1]:9000"),
        ("0.0.0.0", "http://127.0.0.1:9000"),
        ("::", "http://[::1]:9000"),
    ],
)
def test_the_address_is_one_to_connect_to(host: str, base: str) -> None:
    shown = announced(server={"host": host, "keys": ["secret"]})
    assert f"env codex --url {base} --key YOUR-KEY" in shown
    assert f'base_url="{base}/v1"' in shown


def test_the_usual_address_need_not_be_named() -> None:
    backend, config = ScriptedBackend("fine"), Config()
    service = Service(config, backend, IncidentStore(config.incidents.path), Policy(), DecodeMode("ngram"))
    assert 'eval "$(specguard env claude)"\n' in announcement(config, service, 8787)


def test_a_key_is_never_shown() -> None:
    shown = announced(server={"keys": ["secret"]})
    assert "secret" not in shown
    assert "env claude --url http://127.0.0.1:9000 --key YOUR-KEY" in shown


def test_a_planted_fault_is_announced() -> None:
    assert "planted fault" in announced(plant="verify-ignores-cache")
    assert "planted fault" not in announced()


async def test_a_reload_that_fails_does_not_deafen_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: asyncio.Queue[object] = asyncio.Queue()

    async def fails(service: object) -> bool:
        asked.put_nowait(service)
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("proxy.server.serve.reload_policy", fails)
    reloads = asyncio.ensure_future(_reload_on_signal("service"))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    try:
        for _ in range(2):
            signal.raise_signal(signal.SIGHUP)
            assert await asyncio.wait_for(asked.get(), 20) == "service"
        assert not reloads.done()
    finally:
        reloads.cancel()
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
