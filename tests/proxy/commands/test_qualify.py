"""`specguard qualify` as a user calls it: `--show`, refusals, and the embedded model with and without faults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from proxy.commands.main import main

BUCKETS = [
    {"up_to_tokens": 1024, "trusted": True},
    {"up_to_tokens": 4096, "trusted": False, "why": "needle: lost [/b]"},
]
FILE = {
    "format": "specguard.qualification",
    "version": 1,
    "created": "2026-11-27T12:00:00Z",
    "model": "m",
    "fingerprint": "f",
    "tool_format": "qwen_xml",
    "modes": [
        {"drafter": "mtp", "codec": "full", "buckets": BUCKETS},
        {"drafter": "ngram", "codec": "full", "buckets": [{"up_to_tokens": 4096, "trusted": False, "why": "loops"}]},
    ],
}


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """The command sends logs to the standard error of its own process, errors alone."""
    yield
    structlog.reset_defaults()


def test_show_explains_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "q.json"
    file.write_text(json.dumps(FILE))
    assert main(["qualify", "--show", str(file)]) == 0
    out = capsys.readouterr().out
    assert "m (f), qwen_xml calls, 2026-11-27T12:00:00Z" in out
    assert "mtp/full" in out and "1024 tokens" in out and "not qualified at 1025-4096 tokens: needle: lost [/b]" in out
    assert "ngram/full" in out and "nowhere" in out and f'trust.qualification = "{file}"' in out
    assert main(["qualify", "--show", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] == "f"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--show", "nowhere.json"], "--show: nowhere.json cannot be read"),
        (["--modes", "plain"], "--modes: plain decoding is what the others are held against"),
        (["--modes", "warp"], "--modes: unknown drafter"),
        (["--repairs", "0"], "--repairs: at least one"),
        (["--out", "no/such/folder/q.json"], "--out: there is no folder for no/such/folder/q.json"),
        (["--plant", "warp"], "--plant: there is no fault 'warp'"),
    ],
)
def test_refusals(capsys: pytest.CaptureFixture[str], arguments: list[str], part: str) -> None:
    assert main(["qualify", *arguments]) == 2
    assert part in capsys.readouterr().err


def test_a_file_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "q.json"
    file.write_text(json.dumps(FILE | {"version": 2}))
    assert main(["qualify", "--show", str(file)]) == 2
    assert "version: this specguard reads version 1 only" in capsys.readouterr().err


def written(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    file = tmp_path / "q.json"
    assert main(["qualify", "--repairs", "6", "--out", str(file), *arguments]) == 0
    made: dict[str, Any] = json.loads(file.read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["q.json"]
    return made


@pytest.mark.slow
def test_the_embedded_model_is_trusted_to_its_reach_and_no_further(tmp_path: Path) -> None:
    made = written(tmp_path, "--modes", "mtp+ngram/full,mtp+ngram/k4v4")
    for mode in made["modes"]:
        assert [bucket["trusted"] for bucket in mode["buckets"]] == [True, False, False], mode
        assert mode["buckets"][1]["why"].startswith("beyond the context cliff")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "mode"),
    [
        ("verify-ignores-cache", "mtp+ngram/full"),
        ("argmax-acceptance", "mtp+ngram/full"),
        ("rejected-drafts-kept", "mtp+ngram/full"),
        ("recurrent-not-rolled-back", "mtp+ngram/full"),
        ("flipped-argument", "mtp+ngram/full"),
        ("dead-drafter", "mtp+ngram/full"),
        ("keys-unrotated", "mtp+ngram/k4v4"),
        ("codes-damaged", "mtp+ngram/k4v4"),
    ],
)
def test_a_planted_fault_is_refused(tmp_path: Path, fault: str, mode: str) -> None:
    made = written(tmp_path, "--modes", mode, "--plant", fault, "--repairs", "2")
    assert not any(bucket["trusted"] for bucket in made["modes"][0]["buckets"]), made
