"""The cache benchmark as a whole, on short contexts: one document, bars with values, reasons for the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.bench.arguments import Options
from engine.bench.kv import report as reporting
from engine.bench.kv.calls import Calls
from engine.bench.run import run
from engine.codecs.spec import SPECS
from engine.errors import ConfigError
from tests.engine.readers import reader


def test_the_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "QUICK_CONTEXTS", (256,))
    monkeypatch.setattr(reporting, "SIZED_AT", 1024)
    few = [Calls(1024, "k4v4", 1, 1, 1, 0, 0.5)]
    monkeypatch.setattr(reporting, "measure_calls", lambda engine, asked, seeds: few if len(asked) == 1 else [])
    plain = json.loads(json.dumps(run(Options(quick=True, kv=True), lambda line: None).plain()))
    assert plain["bench"] == "engine --kv"
    assert len(plain["bars"]) == 5
    assert plain["missed"] == [bar["name"] for bar in plain["bars"] if not bar["holds"]]
    assert "k4v4 cache at 1024 tokens, bf16: full / k4v4" in plain["missed"], "raw rows and scratch weigh more there"
    assert set(plain["unmeasured"]) == {reporting.TRITON}
    assert [table["title"] for table in plain["tables"]] == [
        "Decode step by codec",
        "The way back",
        "Divergence from full",
        "Tool calls of the embedded model",
    ]
    for table in plain["tables"]:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])


def test_a_real_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command for a GPU, with a small shape in the big one's place."""
    from engine.bench.kv import contexts
    from engine.bench.shape import shape_config
    from tests.engine.bench.test_shape import SMALL

    monkeypatch.setattr(contexts, "shape_config", lambda name, layers: shape_config(name, layers, **SMALL))
    monkeypatch.setattr(reporting, "shape_config", lambda name, layers: shape_config(name, layers, **SMALL))
    monkeypatch.setattr(reporting, "SHAPE_CONTEXTS", (128, 256))
    monkeypatch.setattr(reporting, "copy_bandwidth", lambda device, size: 1e9)
    report = run(Options(kv=True, shape="qwen3.6-27b", layers=4, rounds=1, dtype="float32"), lambda line: None)
    assert report.settings["model"] == "qwen3.6-27b"
    assert {row[0] for row in report.tables[0].rows} == {128, 256}
    assert "size of the k4v4 cache" in report.unmeasured
    assert [table.title for table in report.tables] == ["Decode step by codec", "The way back"]


@pytest.mark.slow
def test_kernels_are_checked_before_they_are_timed(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In triton's interpreter, on a small model: the GPU's command measures what it says it measures."""
    reader("triton", monkeypatch)
    monkeypatch.setattr(reporting, "QUICK_CONTEXTS", (128,))
    monkeypatch.setattr(reporting, "SPECS", {"k4v4": SPECS["k4v4"]})
    monkeypatch.setattr(reporting, "_quality", lambda *rest: ([], []))
    report = run(Options(model=tiny_folder, quick=True, kv=True, rounds=1), lambda line: None)
    assert report.settings["codes read by"] == "triton"
    assert report.tables[0].title == "Kernels against operators"
    assert report.tables[0].rows[0][::2] == ("k4v4", "yes")
    assert reporting.TRITON not in report.unmeasured
    assert report.bars[0].holds


def test_what_does_not_fit_is_refused_before_it_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.bench import shape

    monkeypatch.setattr(shape, "free_memory", lambda device: 60_000_000_000)
    with pytest.raises(ConfigError, match=r"GB are needed for 64 layers, 60\.0 GB are free"):
        run(Options(kv=True, shape="qwen3.6-27b"), lambda line: None)
    with pytest.raises(ConfigError, match="device: "):
        run(Options(kv=True, device="cuda:99"), lambda line: None)
