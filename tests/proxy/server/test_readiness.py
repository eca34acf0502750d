"""What a service manager is told, and that nothing happens where there is none."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.server.readiness import tell_manager
from tests.proxy.process import datagram_socket


def test_a_manager_hears_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with datagram_socket(tmp_path / "notify") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        tell_manager("READY=1\nSTATUS=fine")
        assert manager.recv(100) == b"READY=1\nSTATUS=fine"


def test_an_abstract_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")  # the system chooses one
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + manager.getsockname()[1:].decode())
        tell_manager("STOPPING=1")
        assert manager.recv(100) == b"STOPPING=1"


def test_without_one_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with capture_logs() as logs:
        tell_manager("READY=1")
        assert logs == []
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
        tell_manager("READY=1")
    assert [line["event"] for line in logs] == ["manager.not_told"]
