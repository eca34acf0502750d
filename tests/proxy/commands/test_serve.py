"""`specguard serve`: what is wrong with its configuration is said before a model loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.commands.main import main
from proxy.configuration.config import Config
from proxy.server import serve


def test_the_server_gets_what_file_and_flags_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    served: list[Config] = []

    def note(config: Config) -> int:
        served.append(config)
        return 7

    monkeypatch.setattr(serve, "serve", note)
    file = tmp_path / "specguard.toml"
    file.write_text('[server]\nport = 9000\n[model]\naliases = ["gpt-local"]\n', encoding="utf-8")
    assert main(["serve", "--config", str(file), "--port", "9001"]) == 7
    assert (served[0].server.port, served[0].model.aliases) == (9001, ("gpt-local",))


def test_a_policy_that_cannot_be_read_ends_it_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "serve", lambda _: pytest.fail("the server was started"))
    policy, file = tmp_path / "policy.toml", tmp_path / "specguard.toml"
    policy.write_text("[[rules]]\n", encoding="utf-8")
    file.write_text(f'[guard]\npolicy = "{policy}"\n', encoding="utf-8")
    assert main(["serve", "--config", str(file)]) == 2
    assert str(policy) in capsys.readouterr().err
