"""A captured response is asked for again, of scripted servers with one thing wrong: the layer at fault is named."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from policies.modes import DecodeMode
from policies.policy import Policy
from proxy.backends.lanes import LanesBackend
from proxy.commands.replay import captured, run
from proxy.configuration.config import Config, ConfigProblem
from proxy.conversation import Demands
from proxy.guard.session import GuardedSession
from proxy.incidents import IncidentStore
from proxy.replays.lane_runs import undemanding, why_not
from tests.proxy.lanes.pool import known, two_lanes
from tests.proxy.played import REQUEST
from tests.upstreams.all_defects import DEFECTS
from tests.upstreams.dialects import Kind
from tests.upstreams.lanes import Asked, every_time, only_without_salt
from tests.upstreams.server import Upstream


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """The command sends logs to the standard error of its own process."""
    yield
    structlog.reset_defaults()


DEMANDING = replace(REQUEST, demands=Demands(must_call=True), session="agent-1")
Strikes = Callable[[Asked], bool]


def only_demanding(asked: Asked) -> bool:
    return "tool_choice" in asked.body


def never(asked: Asked) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Recorded:
    """An incident of two lanes that still run."""

    upstream: Upstream
    config: Config
    kind: Kind
    incident: str

    async def replay(self, **options: Any) -> tuple[int, Any]:
        """Exit status, and what is printed."""
        given = {"id": self.incident, "json": True, "axes": (), "tokens": 8192, "store": False} | options
        return await asyncio.to_thread(run, argparse.Namespace(**given), self.config, self.build)

    def build(self, config: Config) -> LanesBackend:
        return LanesBackend(config.lanes, prober=known(self.kind))


@asynccontextmanager
async def recorded(
    path: Path,
    kind: Kind = "vllm",
    fast: Strikes = every_time,
    plain: Strikes = never,
    name: str = "arguments_empty",
    request: Any = DEMANDING,
    mode: str = "",
) -> AsyncIterator[Recorded]:
    defect = DEFECTS[name]
    lanes = defect.lane(), defect.lane()
    lanes[0].strikes, lanes[1].strikes = fast, plain
    upstream = two_lanes(kind, *lanes)
    async with upstream.running():
        section = {"fast": {"url": upstream.base, "model": "fast", "mode": mode}, "plain": {"model": "plain"}}
        settings = {"lanes": section, "incidents": {"path": str(path / "incidents.sqlite")}}
        config = Config.model_validate(settings)
        store = IncidentStore(config.incidents.path, capture=True)
        store.start()
        backend = LanesBackend(config.lanes, prober=known(kind))
        await backend.start()
        try:
            session = GuardedSession(request, backend, Policy(), store, backend.servers[0].mode)
            async for _ in session.events():
                pass
        finally:
            await backend.stop()
            await asyncio.to_thread(store.close)
        record = min(IncidentStore(config.incidents.path).list(), key=lambda each: each.id)
        yield Recorded(upstream, config, kind, record.id)


@pytest.mark.parametrize(
    ("fast", "plain", "mode", "culprit", "certainty"),
    [
        (only_without_salt, only_without_salt, "", "prefix", "likely"),
        (only_without_salt, never, "", "prefix", "likely"),
        (only_demanding, only_demanding, "", "filter", "likely"),
        (every_time, never, "", "speculation", "likely"),
        (every_time, never, "none/k8v8", "kv", "likely"),
        (every_time, never, "mtp/k8v8", "unknown", "none"),
        (every_time, every_time, "", "model", "likely"),
    ],
)
async def test_the_layer_at_fault_is_named(
    fast: Strikes,
    plain: Strikes,
    mode: str,
    culprit: str,
    certainty: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with recorded(tmp_path, fast=fast, plain=plain, mode=mode) as made:
        asked = len(made.upstream.chats)
        capsys.readouterr()
        assert await made.replay() == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["culprit"], told["certainty"]) == (culprit, certainty), told["note"]
        assert told["reproduced"] and told["finished"]
        rows = told["axes"]
        assert rows[0]["axis"] == "none" and rows[0]["recurs"]
        bodies = made.upstream.chats[asked:]
        assert [seen.lane for seen in bodies] == [row["name"] for row in rows]
        assert ["cache_salt" in seen.body for seen in bodies] == [row["prefix"] == "fresh" for row in rows]
        assert ["tool_choice" in seen.body for seen in bodies] == [row["filtered"] for row in rows]
        for seen in made.upstream.chats:
            await seen.end()


async def test_a_fault_that_has_gone_is_not_blamed_on_anybody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    struck: list[Asked] = []

    def once(asked: Asked) -> bool:
        struck.append(asked)
        return len(struck) == 1

    async with recorded(tmp_path, fast=once) as made:
        capsys.readouterr()
        assert await made.replay() == 0
        told = json.loads(capsys.readouterr().out)
        assert not told["reproduced"] and "not reproduced" in told["note"] and len(told["axes"]) == 1


async def test_people_are_told_what_cannot_be_asked_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with recorded(tmp_path, kind="openai", request=replace(DEMANDING, demands=Demands())) as made:
        capsys.readouterr()
        assert await made.replay(json=False, store=True) == 0
        out = capsys.readouterr().out
        assert "another prefix: the fast lane knows no cache salt" in out and "token for token" in out
        assert "speculation" in out and "likely" in out
        record = IncidentStore(made.config.incidents.path).get(made.incident)
        assert record is not None and (record.culprit, record.certainty) == ("speculation", "likely")
        assert record.judged is not None and record.judged["axes"][0]["name"] == "fast"


async def test_a_budget_that_is_used_up_is_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with recorded(tmp_path, name="arguments_loop") as made:
        capsys.readouterr()
        assert await made.replay(tokens=64) == 1
        told = json.loads(capsys.readouterr().out)
        assert not told["finished"] and "tokens are left" in told["note"]


async def test_lanes_that_are_away_are_told(tmp_path: Path) -> None:
    async with recorded(tmp_path) as made:
        fast = made.config.lanes.fast.model_copy(update={"url": "http://127.0.0.1:1"})
        plain = made.config.lanes.plain.model_copy(update={"url": made.upstream.base})
        lanes = made.config.lanes.model_copy(update={"fast": fast, "plain": plain, "retries": 0})
        away = replace(made, config=made.config.model_copy(update={"lanes": lanes}))
        with pytest.raises(ConfigProblem, match=r"cannot be run again: .*fast lane"):
            await away.replay()


async def test_why_an_incident_of_lanes_cannot_be_asked_again(tmp_path: Path) -> None:
    async with recorded(tmp_path) as made:
        record = IncidentStore(made.config.incidents.path).get(made.incident)
        assert record is not None and record.capture is not None
        assert captured(record, lanes=True).request.messages == REQUEST.messages
        failed = replace(record, opened={**record.opened, "detector": "lane.failed"})
        redacted = replace(record, capture={**record.capture, "redacted": ["password"]})
        for broken, said in (
            (failed, "about a server that failed"),
            (redacted, "not those that were sent"),
            (replace(record, capture=None), "incidents.capture = true"),
        ):
            with pytest.raises(ConfigProblem, match=said):
                captured(broken, lanes=True)
        with pytest.raises(ConfigProblem, match="of a pool of lanes"):
            await replace(
                made, config=Config.model_validate({"incidents": {"path": made.config.incidents.path}})
            ).replay()
        with pytest.raises(ConfigProblem, match="--axes"):
            await made.replay(axes=("draft",))


def test_findings_that_no_answer_could_show() -> None:
    assert why_not("drift.collapse") and why_not("loop.history") and why_not("stall.step")
    assert not why_not("loop.period") and not why_not("tool.schema") and not why_not("lane.swallowed")


def test_nothing_is_demanded_any_more() -> None:
    tools = tuple(replace(tool, strict=True) for tool in REQUEST.tools)
    free = undemanding(replace(DEMANDING, tools=tools))
    assert free.demands == Demands() and not any(tool.strict for tool in free.tools)
    assert free.messages == REQUEST.messages
    assert str(DecodeMode.parse("mtp/k8v8")) == "mtp/k8v8"
