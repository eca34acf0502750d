"""The whole benchmark, quickly, on the embedded model: its JSON, and a planted engine fault that it must notice."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

from engine.bench import workloads
from engine.bench.__main__ import main
from engine.bench.arguments import Options
from engine.bench.report import Report
from engine.bench.run import run
from engine.errors import ConfigError
from engine.faults import Fault


@pytest.fixture(autouse=True, scope="module")
def short_replies() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workloads, "QUICK_REPLY", 16)
        yield


@pytest.fixture(scope="module")
def quick() -> Report:
    return run(Options(quick=True, peer=False, only=("agent", "fresh")), lambda line: None)


def test_the_json(quick: Report) -> None:
    plain = json.loads(json.dumps(quick.plain()))
    assert set(plain) == {"bench", "settings", "tables", "bars", "unmeasured", "data", "missed"}
    assert plain["bench"] == "engine" and plain["settings"]["exactness"] == "bitwise"
    assert all(set(bar) == {"name", "target", "measured", "holds"} for bar in plain["bars"])
    assert plain["missed"] == [bar["name"] for bar in plain["bars"] if not bar["holds"]]
    for table in plain["tables"]:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
    modes = plain["data"]["agent"]["modes"]
    assert set(modes) == {"none", "ngram", "mtp", "mtp+ngram"}
    assert all(len(mode["tokens_per_second"]) == 1 for mode in modes.values())


def test_same_text_holds_and_the_rest_has_reasons(quick: Report) -> None:
    assert [bar.holds for bar in quick.bars if bar.name.startswith("same text")] == [True]
    reasons = {name.partition(":")[0]: reason for name, reason in quick.unmeasured.items()}
    assert reasons["file rewrite"] == reasons["prefix reuse"] == "not among --only"
    assert "--no-peer" in quick.unmeasured.values()


def test_fresh_text_is_hard_to_draft(quick: Report) -> None:
    acceptance = {w: quick.data[w]["modes"]["mtp"]["acceptance"][0] for w in ("agent", "fresh")}
    assert acceptance["fresh"] < 0.5 < acceptance["agent"]


def test_a_planted_fault_is_in_missed() -> None:
    report = run(Options(quick=True, peer=False, only=("rewrite",)), lambda line: None, Fault.VERIFY_IGNORES_CACHE)
    assert [name for name in report.missed if name.startswith("same text")]


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ConfigError, match="--layers"):
        run(Options(layers=2, threads=before + 1), lambda line: None)
    assert torch.get_num_threads() == before


def test_the_command_of_a_bare_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--no-peer", "--only", "fresh", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["bench"] == "engine" and "fresh text, round 1 of 1" in err
    assert main(["--layers", "2"]) == 2
    assert capsys.readouterr().err.startswith("engine.bench: --layers")
