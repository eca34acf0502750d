"""`specguard bench engine` and `overhead`: a quick real run, what it prints, its exit status, and how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.bench import workloads
from proxy.bench.overhead import run
from proxy.commands.main import main

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def short_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "QUICK_REPLY", 12)


def test_a_quick_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0 whether or not bars are missed: on a busy machine some are."""
    assert main(["bench", "engine", "--quick", "--no-peer", "--only", "agent", "--json"]) == 0
    out, err = capsys.readouterr()
    plain = json.loads(out)
    assert plain["missed"] == [bar["name"] for bar in plain["bars"] if not bar["holds"]]
    assert "agent tool calls, round 1 of 1" in err


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "engine", "--quick", "--no-peer", "--only", "fresh"]) == 0
    out = capsys.readouterr().out
    assert "fresh text: 1 replies" in out and "mtp+ngram" in out and out.splitlines()[-1].startswith("missed: ")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--model", "nowhere"], "tokenizer.json"),
        (["--device", "cuda:99"], "device: "),
        (["--layers", "3"], "--layers: "),
        (["--shape", "qwen3.6-27b", "--layers", "99"], "has 64 layers"),
    ],
)
def test_what_cannot_be_measured(capsys: pytest.CaptureFixture[str], arguments: list[str], part: str) -> None:
    assert main(["bench", "engine", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("specguard: ") and part in err


def test_overhead_is_measured_without_a_peer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "QUICK", run.Plan(streams=(16,), sizes=("1 kB",), rounds=1, seconds=0.1, gap_s=0.002))
    monkeypatch.setenv("PATH", "")
    assert main(["bench", "overhead", "--quick", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["missed"] == [bar["name"] for bar in plain["bars"] if not bar["holds"]]
    assert (len(plain["bars"]), len(plain["unmeasured"])) == (4, 2)


def test_overhead_refuses_a_peer_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "overhead", "--litellm", "/there/is/none"]) == 2
    assert "--litellm: /there/is/none is no program" in capsys.readouterr().err


def test_help_is_there_without_torch() -> None:
    code = "import sys; from proxy.commands.main import main\n"
    code += "try: main(['bench', 'engine', '--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules, 'torch was imported'"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    for flag in ("--json", "--quick", "--model", "--device", "--dtype", "--threads", "--shape", "--no-peer", "--only"):
        assert flag in result.stdout
