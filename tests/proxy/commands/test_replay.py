"""`specguard replay`: a recorded incident, run again; and every reason why one cannot be."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from proxy.backends.base import Backend
from proxy.backends.errors import BadPrompt
from proxy.commands.main import main
from proxy.commands.replay import captured, find, run
from proxy.configuration.config import Config, ConfigProblem
from proxy.incidents import IncidentStore
from tests.proxy.played import Sink
from tests.proxy.replayable import LOOP, SOUND, Replayable
from tests.proxy.replays.test_automatic import Server
from tests.proxy.reruns import FAST, guarded, started, turns
from tests.proxy.scripted import Script, ScriptedBackend


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """The command sends logs to the standard error of its own process."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A store with an incident of the real engine with a planted fault, and its id."""
    path = tmp_path_factory.mktemp("store") / "incidents.sqlite"
    store, sink = IncidentStore(path, capture=True), Sink()

    async def respond() -> None:
        async with started("verify-ignores-cache") as backend:
            for request in turns():
                await guarded(backend, request, _Both(store, sink), FAST)
                if sink.incidents:
                    return

    asyncio.run(respond())
    store.close()
    yield path, sink.incidents[0].id


class _Both(Sink):
    def __init__(self, store: IncidentStore, sink: Sink) -> None:
        super().__init__()
        self.store, self.sink = store, sink

    def opened(self, incident: object, capture: object = None) -> None:
        for each in (self.store, self.sink):
            each.opened(incident, capture)  # type: ignore[attr-defined]

    def closed(self, closure: object) -> None:
        for each in (self.store, self.sink):
            each.closed(closure)  # type: ignore[attr-defined]


def test_an_incident_of_a_faulty_engine_is_explained(
    recorded: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, incident = recorded
    common = [incident[:12], "--incidents", str(path), "--plant", "verify-ignores-cache"]
    assert main(["replay", *common, "--axes", "draft"]) == 0
    out = capsys.readouterr().out
    assert "no drafts" in out and "audit mismatch" in out
    assert "speculation (draft and verify), certain" in out
    assert IncidentStore(path).get(incident).judged is None  # type: ignore[union-attr]
    assert main(["replay", *common, "--json", "--store"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["incident"], data["culprit"], data["certainty"]) == (incident, "speculation", "certain")
    assert data["model"]["then"] == data["model"]["now"]
    record = IncidentStore(path).get(incident)
    assert record is not None and record.judged is not None
    assert (record.culprit, record.certainty) == ("speculation", "certain")
    assert record.judged["axes"][0]["mode"] == "mtp+ngram/full"


def test_without_the_fault_a_mismatch_is_still_a_proof(
    recorded: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, incident = recorded
    assert main(["replay", incident, "--incidents", str(path)]) == 0
    assert "speculation (draft and verify), certain" in capsys.readouterr().out


class Played:
    """A store over a scripted server, with or without captures."""

    def __init__(self, folder: Path, capture: bool = True) -> None:
        self.path = folder / "incidents.sqlite"
        store = IncidentStore(self.path, capture=capture)

        async def respond() -> None:
            server = Server(ScriptedBackend(Script(SOUND, fast=LOOP)))
            server.sink = _Both(store, server.sink)
            server.sinks = type(server.sinks)((server.sink,))
            await server.respond()

        asyncio.run(respond())
        store.close()
        self.incident = store.list()[0].id

    def options(self, **changes: object) -> argparse.Namespace:
        plain = {"id": self.incident, "tokens": 8192, "json": False, "store": False, "axes": ()}
        return argparse.Namespace(**{**plain, **changes})

    def run(self, backend: Backend, **changes: object) -> int:
        config = Config.model_validate({"incidents": {"path": str(self.path)}})
        return run(self.options(**changes), config, lambda _: backend)


def faulty() -> Replayable:
    return Replayable(lambda rerun: LOOP if rerun.mode.speculates else SOUND)


def test_exit_status_and_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    played = Played(tmp_path)
    backend = faulty()
    assert played.run(backend) == 0
    assert "speculation" in capsys.readouterr().out
    assert not backend.running
    assert played.run(faulty(), tokens=100) == 1
    assert "not finished" in capsys.readouterr().out
    with pytest.raises(ConfigProblem, match="--tokens"):
        played.run(faulty(), tokens=5)


def test_a_second_verdict_does_not_replace_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    played = Played(tmp_path)
    assert played.run(faulty(), store=True) == 0
    assert played.run(Replayable(lambda rerun: LOOP), store=True) == 0
    assert "has a verdict already" in capsys.readouterr().err
    assert IncidentStore(played.path).list()[0].culprit == "speculation"


def test_what_another_model_says_is_shown_and_not_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    played, other = Played(tmp_path), faulty()
    other.info = replace(other.info, fingerprint="another")
    assert played.run(other, store=True) == 0
    printed = capsys.readouterr()
    assert "another model" in printed.out and "not stored" in printed.err
    assert IncidentStore(played.path).list()[0].judged is None


def test_a_backend_that_cannot_or_will_not_is_told(tmp_path: Path) -> None:
    played = Played(tmp_path)
    for backend, said in (
        (ScriptedBackend(), "the built-in engine and lanes can"),
        (Replayable(str, refuse_runs=BadPrompt("kv: does not fit")), "cannot be run again: kv"),
    ):
        with pytest.raises(ConfigProblem, match=said):
            played.run(backend)
        assert not backend.running


def test_why_an_incident_cannot_be_run_again(tmp_path: Path) -> None:
    played = Played(tmp_path)
    record = IncidentStore(played.path).get(played.incident)
    assert record is not None and record.capture is not None
    assert captured(record).is_exact
    redacted = {**record.capture, "redacted": ["password"], "prompt_ids": []}
    for broken, said in (
        (replace(record, capture=None), "incidents.capture = true"),
        (replace(record, capture={"prompt": "..."}), "older version"),
        (replace(record, capture=redacted), "secrets were taken out of its capture .password."),
        (replace(record, opened={**record.opened, "detector": "stall.silence"}), "cannot be run again"),
    ):
        with pytest.raises(ConfigProblem, match=said):
            captured(broken)


def test_which_incident_is_meant(tmp_path: Path) -> None:
    played = Played(tmp_path)
    store = IncidentStore(played.path)
    assert find(store, played.incident).id == find(store, "inc_").id == played.incident
    with pytest.raises(ConfigProblem, match="there is no incident inc_nope"):
        find(store, "inc_nope")
    with pytest.raises(ConfigProblem, match="no incident store"):
        find(IncidentStore(tmp_path / "none.sqlite"), "inc_")
    (tmp_path / "text.sqlite").write_text("no database at all, but a text that is long enough to be one" * 9)
    with pytest.raises(ConfigProblem, match="cannot be read"):
        find(IncidentStore(tmp_path / "text.sqlite"), "inc_")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay", "inc_x", "--axes", "draft,warp"], "unknown axis 'warp'"),
        (["replay"], "ID"),
    ],
)
def test_a_wrong_call_is_one_clear_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_without_captures_the_remedy_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    played = Played(tmp_path, capture=False)
    assert main(["replay", played.incident, "--incidents", str(played.path)]) == 2
    assert "incidents.capture = true" in capsys.readouterr().err
