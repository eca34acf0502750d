"""The service unit and the container: what they call exists, what they promise holds; as far as can be seen without
installing one or building the other."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from proxy.backends.upkeep import STOP_S
from proxy.commands.main import parser_for
from proxy.commands.settings import flags_of
from proxy.configuration.config import Config
from proxy.configuration.sources import load
from tests.proxy.process import scripted

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "examples" / "deploy"
KEYS = {"SPECGUARD_SERVER__KEYS": '["k"]'}


def unit() -> dict[str, list[str]]:
    """Directive -> its values."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "specguard.service").read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile: (word, the rest), lines joined, comments left out."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text()).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def of(word: str) -> list[str]:
    return [rest for found, rest in instructions() if found == word]


def settings(command: list[str], environment: dict[str, str]) -> Config:
    """What such a call of `specguard` is configured as; its file apart, which is the user's."""
    options: Any = parser_for(command).parse_args(command)
    return load(None, environment, flags_of(options))


def test_the_unit_starts_what_there_is() -> None:
    command = shlex.split(unit()["ExecStart"][0])
    assert Path(command[0]).name in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    config = settings(command[1:], {})
    state = Path("/var/lib") / unit()["StateDirectory"][0]
    assert Path(config.incidents.path).parent == state == Path(unit()["WorkingDirectory"][0])


def test_the_unit_gives_time_to_drain() -> None:
    assert int(unit()["TimeoutStopSec"][0]) > Config().server.drain_s + STOP_S
    assert unit()["Type"] == ["notify"] and "KillSignal" not in unit()
    assert unit()["ExecReload"][0].split()[1] == "-HUP"


def test_a_wrong_configuration_is_not_tried_again(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[server]\nprot = 1\n")
    ended = subprocess.run(
        [sys.executable, "-m", "proxy", "serve", "--config", str(wrong)], cwd=ROOT, capture_output=True, timeout=60
    )
    assert unit()["RestartPreventExitStatus"] == [str(ended.returncode)]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    text = (DEPLOY / "specguard.service").read_text()
    there = tmp_path / "specguard.service"
    there.write_text(text.replace("/opt/specguard/bin/specguard", sys.executable))
    environment = {**os.environ, "SYSTEMD_LOG_LEVEL": "warning"}
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(there)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    ours = [line for line in (checked.stdout + checked.stderr).splitlines() if "specguard.service" in line]
    assert not ours
    exposed = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=25", str(there)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert exposed.returncode == 0, exposed.stdout + exposed.stderr


def test_the_container_starts_what_there_is() -> None:
    command = json.loads(of("ENTRYPOINT")[0])
    environment = dict(part.split("=", 1) for part in shlex.split(of("ENV")[0]))
    config = settings(command[1:], environment | KEYS)
    assert config.server.host == "0.0.0.0"
    assert str(config.server.port) == of("EXPOSE")[0]
    assert str(Path(config.incidents.path).parent) == of("VOLUME")[0] == of("WORKDIR")[-1]
    ours = {name for name in environment if name.startswith("SPECGUARD_")}
    assert len(ours) == 2


def test_the_container_is_not_root_and_stops_by_the_signal_that_drains() -> None:
    assert of("USER") == ["10001"] and "--uid 10001" in " ".join(of("RUN"))
    assert of("STOPSIGNAL") == ["SIGTERM"]
    words = [word for word, _ in instructions()]
    assert words.index("USER") > max(i for i, word in enumerate(words) if word == "RUN"), "nothing is installed as it"


def test_what_is_copied_is_there_and_is_not_ignored() -> None:
    allowed = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    copied = [name for rest in of("COPY") if "--from" not in rest for name in rest.split()[:-1]]
    for name in copied:
        assert (ROOT / name).exists(), name
        assert any(fnmatch(name, pattern) for pattern in allowed), f"{name} is ignored"
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.rstrip("*") for name in packages} <= set(copied)


def test_which_python_and_which_torch() -> None:
    arguments = dict(rest.split("=", 1) for rest in of("ARG"))
    version = tuple(map(int, arguments["PYTHON"].partition("-")[0].split(".")))
    assert version in ((3, 11), (3, 12))
    assert arguments["TORCH_INDEX"].endswith("/cpu")
    assert "constraints.txt" in " ".join(of("RUN"))


def test_the_health_check_is_right_about_a_server(tmp_path: Path) -> None:
    command = json.loads(of("HEALTHCHECK")[0].partition("CMD ")[2])

    def check(port: int) -> int:
        code = command[2].replace(f":{Config().server.port}/", f":{port}/")
        assert code != command[2]
        # Docker gives containers the proxies of its own configuration
        environment = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
        return subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, env=environment).returncode

    with scripted(tmp_path, {"plain": "fine"}, server={"keys": ["secret"]}) as server:
        assert check(server.port) == 0
    assert check(server.port) != 0


def test_the_image_holds_byte_code() -> None:
    """Whoever serves from it may not write any, and would translate torch anew at every start."""
    assert of("USER")[-1] != "root"
    assert not [rest for rest in of("RUN") if "--no-compile" in rest]
