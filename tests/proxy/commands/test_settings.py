"""Flags that set a value of the configuration: each sets its key, and one that was not given sets nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from proxy.commands.settings import add_settings, flags_of, load
from proxy.configuration.config import Config, ConfigProblem
from proxy.configuration.sources import dotted

GIVEN = {
    "--host": ("localhost", "server.host", "localhost"),
    "--port": ("9000", "server.port", 9000),
    "--model": ("somewhere", "model.path", "somewhere"),
    "--mode": ("ngram", "decode.mode", "ngram/full"),
    "--incidents": ("x.sqlite", "incidents.path", "x.sqlite"),
    "--observe": (None, "guard.action", "observe"),
    "--plant": ("sampler_bias", "plant", "sampler_bias"),
    "--log-level": ("debug", "log.level", "debug"),
}


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    add_settings(parser)
    return parser.parse_args(arguments)


def test_nothing_given_sets_nothing() -> None:
    assert set(flags_of(parsed()).values()) == {None}
    assert set(flags_of(argparse.Namespace()).values()) == {None}, "commands may lack any of the flags"


@pytest.mark.parametrize("flag", GIVEN)
def test_each_flag_sets_its_key(flag: str) -> None:
    text, key, value = GIVEN[flag]
    found = flags_of(parsed(flag, *([] if text is None else [text])))
    assert {name: each for name, each in found.items() if each is not None} == {key: value}
    assert key in dotted(Config().model_dump()), "a key of the configuration"


def test_a_flag_goes_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "specguard.toml"
    file.write_text("[server]\nport = 9000\n", encoding="utf-8")
    assert load(parsed("--config", str(file))).server.port == 9000
    assert load(parsed("--config", str(file), "--port", "9001")).server.port == 9001
    with pytest.raises(ConfigProblem, match=r"server\.port"):
        load(parsed("--port", "70000"))
