"""The script for a GPU machine, tried on a CPU: it writes its report, and what does not hold fails it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def test_suites_without_pytest_are_not_run_and_have_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "exactness", lambda device, dtype: Part("exactness", True, "bitwise"))
    monkeypatch.setattr(gpu, "kernels", lambda device, dim: Part(f"head_dim {dim}", True, "same bits"))
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    assert main(["--device", "cpu", "--quick", "--no-tables", "--out", str(tmp_path)]) == 3
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (report["failed"], report["not_run"]) == ([], ["test suites"])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## test suites: not run (0 s)" in text
    assert "pytest, transformers not installed here" in text
    assert "FAILED" not in text
    assert capsys.readouterr().out.rstrip().endswith("report.md: not run: test suites")


def test_a_failure_beside_what_was_not_run_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "exactness", lambda device, dtype: Part("exactness", False, "distribution"))
    monkeypatch.setattr(gpu, "kernels", lambda device, dim: Part(f"head_dim {dim}", True, "same bits"))
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    assert main(["--device", "cpu", "--quick", "--no-tables", "--out", str(tmp_path)]) == 1


BARE = ("torch", "numpy", "safetensors", "tokenizers", "jinja2")
"""What a machine with a GPU may have of what we declare, and no more."""


def test_it_needs_no_more_than_the_engine(tmp_path: Path) -> None:
    """In a Python of those packages alone: no import is missing anywhere on the way, and the suites are told apart."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for place in places(BARE):
        (packages / place.name).symlink_to(place)
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-S", "-m", "engine.bench.gpu", "--device", "cpu", "--quick", "--no-tables"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{root}:{packages}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("report.md: not run: test suites")
    report = json.loads((tmp_path / ".gpu-report" / "report.json").read_text(encoding="utf-8"))
    assert [part["holds"] for part in report["parts"]] == [True, True, True, False]


def places(names: Sequence[str]) -> set[Path]:
    """What these distributions, and those that they require, have put into the environment's folder."""
    kept, todo = set[str](), list(names)
    found: set[Path] = set()
    while todo:
        name = canonicalize_name(todo.pop())
        # what is declared for other systems need not be here
        if name in kept or not list(metadata.distributions(name=name)):
            continue
        kept.add(name)
        required = [Requirement(line) for line in metadata.requires(name) or ()]
        todo += [r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
        distribution = metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
        found |= {Path(str(distribution.locate_file(top))) for top in tops}
    return found


def test_kernels_that_are_off_on_a_device_do_not_hold() -> None:
    assert not read_as_wanted(Kernels(False, "no triton"), "cuda:0")
    assert read_as_wanted(Kernels(True), "cuda:0")
    assert read_as_wanted(Kernels(), "cpu")
