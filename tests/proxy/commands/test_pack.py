"""`specguard bench pack` as a user calls it: against a server that runs, on the embedded model, and how it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from proxy.bench.pack.run import Measured
from proxy.bench.pack.tasks import shipped
from proxy.bench.pack.workloads import Size
from proxy.bench.report import Table
from proxy.commands import bench
from proxy.commands import pack as pack_cli
from proxy.commands.main import main
from proxy.configuration.config import Config
from tests.proxy.bench.pack.played import backend
from tests.proxy.bench.pack.test_page import at, read
from tests.proxy.bench.pack.test_report import measured
from tests.proxy.live import serving


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """The command sends logs to the standard error of its own process, errors alone."""
    yield
    structlog.reset_defaults()


async def test_a_server_that_runs_already(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    async with serving(backend()) as live:
        arguments = ["bench", "pack", "--quick", "--json", "--html", str(page), "--target", live.base]
        status = await asyncio.to_thread(main, [*arguments, "--modes", "plain,mtp+ngram/full"])
    assert status == 0
    out, err = capsys.readouterr()
    plain = json.loads(out[out.index("{\n") :])  # the server in this process has logged before it
    assert list(plain["data"]["modes"]) == ["plain", "mtp+ngram/full"] and plain["missed"] == [
        bar["name"] for bar in plain["bars"] if not bar["holds"]
    ]
    assert "2 modes: quality check" in err
    for path, value in read(page.read_text(encoding="utf-8")).numbers:
        assert json.loads(value) == at(plain["data"], path)


def test_the_embedded_model(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_cli, "QUICK", Size(repairs=1, far=1, times=1, few=1))
    assert main(["bench", "pack", "--quick", "--json", "--modes", "mtp+ngram/full", "--context", "300"]) == 0
    plain = json.loads(capsys.readouterr().out)
    own = plain["data"]["modes"]["mtp+ngram/full"]
    assert own["quality"]["valid"]["value"] == own["json"]["valid"]["value"] == 1
    assert own["quality"]["acceptance"]["value"] > 0.3 and own["quality"]["by_position"]
    assert plain["data"]["kv"]["mtp+ngram/full"]["bytes"] > 0 and plain["settings"]["exactness"] == "bitwise"
    assert not any(figures["loops"] or figures["failures"] for figures in own.values())


def test_a_page_that_cannot_be_written_does_not_cost_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Measured(modes={"plain": {}}, sweep={"plain": []})
    monkeypatch.setattr(pack_cli, "follow", lambda *_: found)
    assert main(["bench", "pack", "--quick", "--json", "--html", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["bench"] == "pack" and "cannot be written" in err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--modes", "warp/full"], "--modes: unknown drafter 'warp'"),
        (["--context", "a"], "--context: 'a' is no list of numbers"),
        (["--context", "0"], "--context: every length"),
        (["--repairs", "0"], "--repairs: at least one"),
        (["--rounds", "0"], "--rounds: at least one"),
        (["--minutes", "nan"], "--minutes: zero or more, not nan"),
        (["--minutes", "-1"], "--minutes: zero or more"),
        (["--html", "no/such/folder/page.html"], "--html: there is no folder for no/such/folder/page.html"),
        (["--repo", "nowhere-at-all"], "--repo: nowhere-at-all is no folder"),
        (["--plant", "warp"], "--plant: there is no fault 'warp'"),
        (["--target", "http://127.0.0.1:9", "--plant", "dead-drafter"], "--plant: is for the built-in engine"),
        (["--target", "http://127.0.0.1:9"], "--target: http://127.0.0.1:9 does not list its models"),
        (["--model", "nowhere-at-all", "--modes", "plain"], "nowhere-at-all"),
    ],
)
def test_what_cannot_be_measured(capsys: pytest.CaptureFixture[str], arguments: list[str], part: str) -> None:
    assert main(["bench", "pack", "--quick", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and part in err.replace("\n", " ")


def test_stopped_before_anything_was_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_cli, "follow", lambda *_: Measured(modes={"plain": {}}, stopped=True))
    assert main(["bench", "pack", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "stopped before anything was measured" in err


@pytest.mark.parametrize(
    ("trouble", "why"), [(KeyboardInterrupt(), "it was stopped"), (RuntimeError("no room"), "RuntimeError: no room")]
)
def test_a_peer_costs_no_run(
    trouble: BaseException, why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def peer(*_: object) -> Table:
        raise trouble

    monkeypatch.setattr(pack_cli, "follow", lambda *_: measured("plain"))
    monkeypatch.setattr(bench, "_transformers", peer)
    assert main(["bench", "pack", "--json", "--modes", "plain"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["data"]["modes"]["plain"] and plain["unmeasured"][pack_cli.PEER] == why


def test_a_stopped_run_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured("plain")
    found.stopped, found.rounds = True, 1
    monkeypatch.setattr(pack_cli, "follow", lambda *_: found)
    assert main(["bench", "pack", "--json", "--modes", "plain"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["settings"]["rounds"] == "1 of 3, then stopped"
    assert plain["unmeasured"][pack_cli.PEER] == "the run was stopped"


@pytest.mark.slow
def test_transformers_beside_it() -> None:
    made = bench._transformers(Config(), shipped(), 0)
    assert isinstance(made, Table) and [row[1] for row in made.rows] == ["cold prompt", "patch generation"]
    assert all(row[2] for row in made.rows)
