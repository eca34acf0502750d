"""`specguard trust`: what it shows, what it forgets, and what it says when it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policies.accusation import CERTAIN, Accusation
from policies.breaker import Key, Record, Trip
from proxy.commands.main import main
from proxy.trust.store import beside, read, write

LONG, SHORT = (Key("f00d", mode, bucket, "qwen_xml") for mode, bucket in (("mtp+ngram/k4v4", 3), ("mtp/full", 0)))
TRIP = Trip("inc_01", 5.0, 20_000, Accusation("kv", CERTAIN))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    incidents = tmp_path / "incidents.sqlite"
    write(beside(incidents), {LONG: Record("open", (TRIP,), 0.0, 5.0, 1), SHORT: Record("half_open")})
    return incidents


def test_show(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trust", "show", "--incidents", str(store)]) == 0
    shown = capsys.readouterr().out
    for word in (str(LONG), str(SHORT), "half open", "kv", "inc_01", "when idle"):
        assert word in shown
    assert main(["trust", "show", "--json", "--incidents", str(store)]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["key"], first["state"], first["trips"], first["canary_in_s"]) == (str(LONG), "open", ["inc_01"], 0)
    assert (second["state"], second["accused"]) == ("half_open", None)


def test_nothing_to_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for view in ("show", "reset"):
        assert main(["trust", view, "--incidents", str(tmp_path / "x.sqlite")]) == 0
    assert capsys.readouterr().out == "nothing speaks against any mode\nnothing to reset\n"
    assert not list(tmp_path.iterdir())


def test_reset_one_and_all(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trust", "reset", "--key", "mtp+ngram/k4v4@16", "--incidents", str(store)]) == 0
    assert capsys.readouterr().out == f"reset {LONG}\n"
    assert list(read(beside(store))) == [SHORT]
    assert main(["trust", "reset", "--incidents", str(store)]) == 0
    assert read(beside(store)) == {}


def test_a_key_that_is_not_there(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trust", "reset", "--key", "ngram", "--incidents", str(store)]) == 2
    assert "--key: no key begins with 'ngram'; `specguard trust show` lists them" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_stays_where_it_is(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    beside(store).write_text("{")
    for view in ("show", "reset"):
        assert main(["trust", view, "--incidents", str(store)]) == 2
        assert "cannot be read" in capsys.readouterr().err
    assert beside(store).read_text() == "{"


def test_the_configured_path_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "elsewhere.json", {SHORT: Record("open")})
    config = tmp_path / "specguard.toml"
    config.write_text(f'[trust]\npath = "{tmp_path}/elsewhere.json"\n')
    assert main(["trust", "reset", "--config", str(config)]) == 0
    assert capsys.readouterr().out == f"reset {SHORT}\n"


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_store_that_is_no_file_is_told(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trust", "show", "--incidents", path]) == 2
    assert f"incidents.path: {path!r} names no file; write one such as" in capsys.readouterr().err
