"""The script for a GPU machine, tried on a CPU: it writes its report, and what does not hold fails it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.bench import gpu
from engine.bench.gpu import Part, main, read_as_wanted
from engine.kernels.switch import Kernels


def test_checks_run_and_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--quick", "--no-tables", "--no-suites", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [part["name"] for part in report["parts"]] == ["exactness, float32", "exactness, bfloat16", "head_dim 64"]
    assert report["failed"] == []
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "k4v4: speculative rows bitwise" in text
    assert "everything holds" in capsys.readouterr().out


def test_what_does_not_hold_fails_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "exactness", lambda device, dtype: Part("exactness", dtype == "float32", "distribution"))

    def broken(device: str, dim: int) -> Part:
        raise RuntimeError("illegal memory access")

    monkeypatch.setattr(gpu, "kernels", broken)
    assert main(["--device", "cpu", "--quick", "--no-tables", "--no-suites", "--out", str(tmp_path)]) == 1
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["failed"] == ["exactness", "head_dim 64"]
    assert "illegal memory access" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_missing_device_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda:99", "--out", str(tmp_path / "none")]) == 2
    assert "'cuda:99' cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_suites_without_pytest_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    part = gpu.suites()
    assert not part.holds
    assert part.told == "not run: pytest, transformers not installed here"


def test_kernels_that_are_off_on_a_device_do_not_hold() -> None:
    assert not read_as_wanted(Kernels(False, "no triton"), "cuda:0")
    assert read_as_wanted(Kernels(True), "cuda:0")
    assert read_as_wanted(Kernels(), "cpu")
