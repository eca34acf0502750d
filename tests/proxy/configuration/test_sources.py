"""Where values come from, to the last key. What is refused, and in which words: `test_config.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proxy.configuration.config import Config
from proxy.configuration.sources import dotted, load_with_sources


def sources(tmp_path: Path, text: str, environment: dict[str, str], **flags: Any) -> dict[str, str]:
    file = tmp_path / "mine.toml"
    file.write_text(text, encoding="utf-8")
    found = load_with_sources(file, environment, {key.replace("__", "."): value for key, value in flags.items()})
    return {key: source.replace(str(file), "file") for key, source in found.sources.items()}


def test_the_last_one_who_gave_a_value_is_its_source(tmp_path: Path) -> None:
    text = 'plant = ""\n[server]\nport = 1\nkeepalive_s = 1\ndrain_s = 1\n[log]\nlevel = "debug"'
    environment = {"SPECGUARD_SERVER__PORT": "2", "SPECGUARD_SERVER__KEEPALIVE_S": "2", "SPECGUARD_HOME": "/x"}
    assert sources(tmp_path, text, environment, server__port=3, server__host=None) == {
        "plant": "file",
        "server.port": "flag",
        "server.keepalive_s": "SPECGUARD_SERVER__KEEPALIVE_S",
        "server.drain_s": "file",
        "log.level": "file",
    }


def test_numbers_of_the_detectors_too(tmp_path: Path) -> None:
    text = "[detectors.loops.prose]\nfallback = { covered = 512 }"
    assert sources(tmp_path, text, {"SPECGUARD_DETECTORS__STALL__FACTOR": "7"}) == {
        "detectors.loops.prose.fallback.covered": "file",
        "detectors.stall.factor": "SPECGUARD_DETECTORS__STALL__FACTOR",
    }


def test_nothing_given_has_no_sources() -> None:
    found = load_with_sources(None, {}, {})
    assert (found.config, found.sources) == (Config(), {})


def test_dotted_keys() -> None:
    assert dotted({"a": {"b": 1, "c": {"d": [2]}}, "e": 3}) == {"a.b": 1, "a.c.d": [2], "e": 3}
