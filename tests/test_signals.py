"""A server that is stopped, killed and told to reload in the middle of its work, as real processes."""

from __future__ import annotations

import json
import os
import pty
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.incidents import IncidentStore
from tests.proxy.live import CHAT, MESSAGES, RESPONSES, body_for, payloads
from tests.proxy.process import LIMIT_S, MAIN, ROOT, Process, datagram_socket, rest_of, scripted
from tests.proxy.scripted import call_text

ENDS = {CHAT: b"[DONE]", MESSAGES: b"message_stop", RESPONSES: b"response.completed"}
TEXT = " ".join(f"w{number}" for number in range(400))
STEPS = {"plain": TEXT, "width": 1}


class Asked(threading.Thread):
    """A request in a thread of its own."""

    def __init__(self, server: Process, path: str, **fields: Any) -> None:
        super().__init__()
        self._server, self._path, self._fields = server, path, fields
        self._spoken = threading.Event()
        self._heard: tuple[int, dict[str, str], bytes, bool] | None = None
        self.start()

    def run(self) -> None:
        with self._server.begin("POST", self._path, body_for(self._path, **self._fields)) as response:
            head = {name.lower(): value for name, value in response.getheaders()}
            first = response.read1(1)
            self._spoken.set()
            rest, whole = rest_of(response)
            self._heard = (response.status, head, first + rest, whole)

    def spoken_to(self) -> None:
        """Until the response has begun."""
        assert self._spoken.wait(LIMIT_S)

    def heard(self) -> tuple[int, dict[str, str], bytes, bool]:
        """Status, headers, body, and whether that was whole; when the response has ended."""
        self.join(LIMIT_S)
        assert self._heard is not None
        return self._heard


def until_in_flight(server: Process, count: int) -> None:
    while json.loads(server.ask("GET", "/ready")[2])["in_flight"] < count:
        pass


def test_sigterm_lets_responses_end_that_can(tmp_path: Path) -> None:
    with scripted(tmp_path, {"plain": "one two three four"}, pause_s=0.1, decode={"mode": "plain"}) as server:
        threads = [Asked(server, path, stream=stream) for path in ENDS for stream in (True, False)]
        until_in_flight(server, len(threads))
        server.process.send_signal(signal.SIGTERM)
        for thread, path in zip(threads, [path for path in ENDS for _ in (1, 2)], strict=True):
            status, head, body, whole = thread.heard()
            assert (status, whole) == (200, True)
            if "event-stream" in head["content-type"]:
                assert ENDS[path] in body
            assert b"four" in body
        assert server.process.wait(LIMIT_S) == 0


@pytest.mark.parametrize("signals", [1, 2])
def test_what_cannot_end_in_time_is_told_so_in_its_own_words(tmp_path: Path, signals: int) -> None:
    """signals: 1 = the time to drain is over, 2 = a second signal ends it."""
    drain_s = 0.3 if signals == 1 else 3600
    with scripted(tmp_path, STEPS, pause_s=0.05, server={"drain_s": drain_s}, decode={"mode": "plain"}) as server:
        streams = {path: Asked(server, path, stream=True) for path in ENDS}
        waiting = {path: Asked(server, path) for path in ENDS}
        until_in_flight(server, 6)
        for thread in streams.values():
            thread.spoken_to()
        server.process.send_signal(signal.SIGTERM)
        while "shutting down" not in json.loads(server.ask("GET", "/ready")[2])["reason"]:
            pass
        status, head, _ = server.ask("POST", CHAT, body_for(CHAT))
        assert (status, head["x-should-retry"]) == (503, "true")
        if signals == 2:
            server.process.send_signal(signal.SIGTERM)
        for path, thread in streams.items():
            status, _, body, whole = thread.heard()
            assert (status, whole) == (200, False), "clients take a clean end for success"
            assert ENDS[path] not in body
            last = payloads(body)[-1]
            said = last["response"]["error"] if path == RESPONSES else last["error"]
            assert said["message"].startswith("the server is shutting down"), last
        for path, thread in waiting.items():
            status, head, body, whole = thread.heard()
            assert (status, whole) == (529 if path == MESSAGES else 503, True)
            assert (head["x-should-retry"], head["retry-after"]) == ("true", "2")
            assert b"shutting down" in body
        assert server.process.wait(LIMIT_S) == 0


def test_a_third_signal_ends_what_hangs(tmp_path: Path) -> None:
    """The engine's worker may hang for as long as a device does."""
    with scripted(tmp_path, STEPS, pause_s=0.05, stop_s=3600, server={"drain_s": 3600}) as server:
        thread = Asked(server, CHAT, stream=True)
        thread.spoken_to()
        server.process.send_signal(signal.SIGTERM)
        while "shutting down" not in json.loads(server.ask("GET", "/ready")[2])["reason"]:
            pass
        server.process.send_signal(signal.SIGTERM)
        thread.heard()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(LIMIT_S) == -signal.SIGTERM


PROVEN = {"plain": TEXT, "fast": "All is lost now " + TEXT, "audited": "all"}
"""Speculation is at fault, and an audit proves it at once."""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_ends_in_mid_stream_leaves_evidence_and_trust(tmp_path: Path, how: signal.Signals) -> None:
    store = tmp_path / "incidents.sqlite"
    breaker = {"cool_down_s": 1000.0}
    with scripted(tmp_path, PROVEN, pause_s=0.05, server={"drain_s": 0.0}, breaker=breaker) as server:
        assert server.ask("POST", CHAT, body_for(CHAT, max_tokens=8))[0] == 200
        first = server.log_until("incident.closed")["incident"]
        thread = Asked(server, CHAT, stream=True, speculative={"types": "ngram"})  # for which no breaker is open
        second = server.log_until("incident.opened")["incident"]
        thread.spoken_to()
        server.process.send_signal(how)
        server.process.wait(LIMIT_S)
        status, _, body, whole = thread.heard()
        assert (status, whole) == (200, False)
        assert b"w399" not in body
        assert ENDS[CHAT] not in body
    outcomes = {each.opened["id"]: each.closed and each.closed["outcome"] for each in IncidentStore(store).list()}
    assert outcomes == {first: "recovered", second: "abandoned" if how == signal.SIGTERM else None}

    with scripted(tmp_path, PROVEN, breaker=breaker) as server:
        status, head, body = server.ask("POST", CHAT, body_for(CHAT))
        assert (status, head["x-specguard-mode"]) == (200, "plain")
        assert head["x-specguard-mode-reason"].endswith("is open")
        assert b"w399" in body, "it is served to its end"
        ready = json.loads(server.ask("GET", "/ready")[2])
        assert {each["state"] for each in ready["trust"]["breakers"]} == {"open"}
    assert {each.opened["id"] for each in IncidentStore(store).list()} == {first, second}


def rules(action: str) -> str:
    return f'action = "{action}"\n'


def test_sighup_takes_up_the_policy_and_nothing_else(tmp_path: Path) -> None:
    policy = tmp_path / "mine.toml"
    policy.write_text(rules("enforce"))
    guard, bad = {"policy": str(policy)}, "All is well and the work is done " + call_text("nope", path="x")
    with scripted(tmp_path, {"plain": bad}, pause_s=0.02, guard=guard, decode={"mode": "plain"}) as server:

        def shown() -> Any:
            return json.loads(server.ask("GET", "/ready")[2])

        before = shown()
        assert (before["guard"], before["policy"]["name"]) == ("enforce", "mine.toml")

        policy.write_text("actoin = 1\n")
        server.process.send_signal(signal.SIGHUP)
        refused = server.log_until("policy.refused")
        assert "mine.toml" in refused["reason"] and "actoin" in refused["reason"]
        assert refused["stays"] == before["policy"]["sha256"]
        assert shown()["policy"] == before["policy"]

        running = Asked(server, CHAT, stream=True)
        until_in_flight(server, 1)
        policy.write_text(rules("observe"))
        server.process.send_signal(signal.SIGHUP)
        told = server.log_until("policy.reloaded")
        after = shown()
        assert (after["guard"], after["policy"]["sha256"], told["changed"]) == ("observe", told["sha256"], True)
        assert after["policy"]["sha256"] != before["policy"]["sha256"]
        assert b"[specguard]" in running.heard()[2], "it began under a policy that keeps such calls back"
        assert b"[specguard]" not in server.ask("POST", CHAT, body_for(CHAT))[2]

        policy.unlink()
        server.process.send_signal(signal.SIGHUP)
        assert "there is no such file" in server.log_until("policy.refused")["reason"]
        assert shown()["policy"] == after["policy"]


def test_a_terminal_that_is_closed_takes_its_server_along(tmp_path: Path) -> None:
    """It could not log any more, and would hold the port and answer everything with an error."""
    given = {"config": {"server": {"port": 0}, "incidents": {"path": str(tmp_path / "i.sqlite")}}}
    given |= {"scripts": [{"plain": "fine"}], "pause_s": 0.0, "stop_s": 0.0}
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", MAIN, json.dumps(given)])
    try:
        seen = b""
        while b"anthropic.Anthropic" not in seen:
            seen += os.read(terminal, 4096)
    finally:
        os.close(terminal)
    ended, since = (0, 0), time.monotonic()
    while not ended[0] and time.monotonic() - since < LIMIT_S:
        time.sleep(0.01)
        ended = os.waitpid(pid, os.WNOHANG)
    if not ended[0]:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert ended[0] and os.waitstatus_to_exitcode(ended[1]) == -signal.SIGHUP


def test_a_service_manager_is_told(tmp_path: Path) -> None:
    with (
        datagram_socket(tmp_path / "notify") as manager,
        scripted(tmp_path, {"plain": "fine"}, extra={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as server,
    ):
        assert manager.recv(1000).decode() == f"READY=1\nSTATUS=serving scripted on port {server.port}"
        server.process.send_signal(signal.SIGTERM)
        assert manager.recv(1000).startswith(b"STOPPING=1\n")
        assert server.process.wait(LIMIT_S) == 0
