"""The example configurations of lanes: each is one that specguard takes, says how its servers are started, and starts
none that is known to go wrong.
"""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path

import pytest

from proxy.configuration.config import Config
from proxy.configuration.needs import check_needs
from proxy.configuration.sources import load
from proxy.lanes.capabilities import LaneCapabilities
from proxy.lanes.known_bad import distrusted

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "examples" / "lanes"
FILES = sorted(FOLDER.glob("*.toml"))
MODELS = re.compile(r"model_id: (\S+)")


def commands(file: Path) -> list[list[str]]:
    """What follows `# $ `, with its further lines, as a shell would split it."""
    found: list[str] = []
    for line in file.read_text().splitlines():
        if line.startswith("# $ "):
            found.append(line.removeprefix("# $ "))
        elif line.startswith("#     ") and found:
            found[-1] += " " + line.removeprefix("#     ")
    return [shlex.split(command) for command in found]


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1] if name in command else ""


def settings(file: Path) -> Config:
    return load(file, {}, {})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_taken(file: Path) -> None:
    config = settings(file)
    check_needs(config)
    lanes = config.lanes
    assert lanes.configured
    assert lanes.has_plain
    assert (lanes.fast.root, lanes.fast.model) != (lanes.plain_lane.root, lanes.plain_lane.model)
    assert config.model.name, "clients ask for one model, whichever lane answers"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_says_how_it_is_started(file: Path) -> None:
    text = file.read_text()
    assert f"specguard serve --config {file.relative_to(ROOT)}" in text
    assert commands(file)
    for named in re.findall(r"examples/lanes/[\w.]+", text):
        assert (ROOT / named).exists(), named


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_models_are_those_of_the_servers(file: Path) -> None:
    """By the commands, or by the file that a command names."""
    served = set()
    for command in commands(file):
        served |= {option(command, "--served-model-name"), *option(command, "--static-models").split(",")}
        if preset := option(command, "--models-preset"):
            served |= set(_presets(ROOT / preset).sections())
        for named in command:
            if named.endswith(".yaml"):
                served |= set(MODELS.findall((ROOT / named).read_text()))
    lanes = settings(file).lanes
    assert {lanes.fast.model, lanes.plain_lane.model} <= served


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_ports_are_those_of_the_servers(file: Path) -> None:
    lanes = settings(file).lanes
    started = {option(command, "--port") for command in commands(file)} - {""} or {"8000"}  # Ray's own
    for lane in (lanes.fast, lanes.plain_lane):
        for url in (lane.root, *lane.metrics_urls):
            found = re.search(r":(\d+)", url.removeprefix("http:"))
            assert found is not None
            assert found[1] in started, url


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_none_starts_a_pair_that_is_known_to_go_wrong(file: Path) -> None:
    for command in commands(file):
        if command[:2] == ["vllm", "serve"]:
            drafts = option(command, "--speculative-config")
            lane = LaneCapabilities(
                "vllm",
                speculation=json.loads(drafts)["method"] if drafts else "none",
                kv=option(command, "--kv-cache-dtype") or "auto",
                prefix_cache="--no-enable-prefix-caching" not in command,
            )
        elif "sglang.launch_server" in command:
            lane = LaneCapabilities(
                "sglang", speculation=option(command, "--speculative-algorithm") or "none", kv="auto"
            )
        else:
            continue
        assert distrusted(lane) == (), command


def _presets(file: Path) -> configparser.ConfigParser:
    presets = configparser.ConfigParser(delimiters="=", comment_prefixes=(";",))
    presets.read_string(re.sub(r"(?m)^version = 1$", "", file.read_text()))
    return presets


def test_the_presets_differ_in_their_drafts_alone() -> None:
    presets = _presets(FOLDER / "llamacpp_presets.ini")
    fast, plain = dict(presets["fast"]), dict(presets["plain"])
    assert {name for name in fast if fast[name] != plain.get(name)} == {"spec-type", "spec-draft-n-max"}
    lane = LaneCapabilities("llamacpp", speculation=fast["spec-type"], kv=fast.get("cache-type-k", "f16"))
    assert distrusted(lane) == ()


def test_ray_serves_the_fast_model_without_what_is_known_to_go_wrong() -> None:
    text = (FOLDER / "ray_serve.yaml").read_text()
    fast, plain = text.split("model_id: qwen-plain")
    assert "speculative_config" in fast and "speculative_config" not in plain
    assert "enable_prefix_caching: false" in fast
