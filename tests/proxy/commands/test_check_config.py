"""`specguard check-config`: what was given, where it comes from, and what it replaces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.commands.main import main
from proxy.configuration.config import Config
from proxy.configuration.example import example
from proxy.configuration.sources import dotted


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECGUARD_LOG__LEVEL", "debug")
    monkeypatch.setenv("SPECGUARD_SERVER__KEYS", '["hidden"]')


def test_what_is_given_and_by_whom(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[server]\nport = 9000\ndrain_s = 20.0\n[model]\nmax_turns = 4\n", encoding="utf-8")
    assert main(["check-config", str(file), "--port", "9001", "--observe"]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert [tuple(part.strip() for part in line if part) for line in lines[:-1]] == [
        ('guard.action = "observe"', "flag", "default as the policy says"),
        ('log.level = "debug"', "SPECGUARD_LOG__LEVEL", 'default "info"'),
        ("model.max_turns = 4", str(file), "default 8"),
        ("server.drain_s = 20.0", str(file), "the default"),
        ('server.keys = ["(1 set)"]', "SPECGUARD_SERVER__KEYS", "default []"),
        ("server.port = 9001", "flag", "default 8787"),
    ]
    others = len(dotted(Config().model_dump(mode="json"))) - 6
    assert lines[-1][0] == f"{others} other values are as by default (specguard check-config --example)"


def test_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "--json", "--host", "0.0.0.0"]) == 0
    out = capsys.readouterr().out
    assert "hidden" not in out
    shown = json.loads(out)
    assert shown["sources"] == {
        "log.level": "SPECGUARD_LOG__LEVEL",
        "server.host": "flag",
        "server.keys": "SPECGUARD_SERVER__KEYS",
    }
    assert shown["server"]["host"] == "0.0.0.0" and set(shown) == {*Config.model_fields, "sources"}


def test_what_serve_would_refuse_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPECGUARD_SERVER__KEYS")
    assert main(["check-config", "--host", "0.0.0.0"]) == 2
    assert "needs server.keys" in capsys.readouterr().err


def test_the_example_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "--example"]) == 0
    assert capsys.readouterr().out == example()
