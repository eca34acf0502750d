"""The application's life: loading in the background, readiness, reduced modes, draining, and its end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from aiohttp import web

from policies.modes import DecodeMode
from proxy.backends.errors import BackendError
from proxy.configuration.config import Config
from proxy.incidents import IncidentStore
from proxy.server.app import SERVICE, create_app
from proxy.trust.keeper import TrustKeeper
from tests.proxy.live import CHAT, MESSAGES, serving
from tests.proxy.replayable import LOOP, SOUND, Replayable
from tests.proxy.scripted import FAST, Script, ScriptedBackend


class Slow(ScriptedBackend):
    """Loads until `loaded` is set; then fails if there is a `problem`."""

    def __init__(self, problem: Exception | None = None) -> None:
        super().__init__("fine")
        self.loaded = asyncio.Event()
        self.problem = problem

    async def start(self) -> None:
        await self.loaded.wait()
        if self.problem is not None:
            raise self.problem
        await super().start()


async def test_not_ready_while_the_model_loads() -> None:
    backend = Slow()
    async with serving(backend, wait_until_ready=False) as live:
        ready = await live.ask("GET", "/ready")
        assert (ready.status, ready.json["ready"]) == (503, False)
        assert ready.json["reason"] == "the model is still loading"
        assert (await live.ask("GET", "/health")).status == 200
        for path, status in [(CHAT, 503), (MESSAGES, 529)]:
            answer = await live.post(path)
            assert (answer.status, answer.headers["x-should-retry"]) == (status, "true")
        backend.loaded.set()
        await live.service.settled.wait()
        assert (await live.ask("GET", "/ready")).status == 200
        assert (await live.post(CHAT)).status == 200
    assert not backend.running


async def test_canaries_and_replays_take_turns() -> None:
    async with serving("fine") as live:
        canaries, replays = live.service.canaries, live.service.replays
        assert canaries is not None and replays is not None
        assert replays._spare is canaries.spare
        assert replays._settings.detectors is live.service.config.detectors


async def test_a_codec_that_the_model_cannot_have_is_told_before_anybody_asks() -> None:
    backend = ScriptedBackend("fine")
    backend.capabilities = replace(backend.capabilities, modes=("plain", "ngram/full", "mtp+ngram/full"))
    async with serving(backend, decode={"mode": "mtp+ngram/k4v4"}) as live:
        ready = await live.ask("GET", "/ready")
    reason = "decode.mode: codec 'k4v4' does not fit this model's heads; use one of full"
    assert (ready.status, ready.json["reason"]) == (503, reason)


async def test_whatever_fails_behind_the_loading_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr(TrustKeeper, "serve", broken)
    async with serving(ScriptedBackend("fine")) as live:
        ready = await live.ask("GET", "/ready")
    assert (ready.status, ready.json["reason"]) == (503, "the model could not be loaded (OSError)")


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (BackendError("model.path: there is no such folder"), "model.path: there is no such folder"),
        (RuntimeError("internals"), "the model could not be loaded (RuntimeError)"),
    ],
)
async def test_a_model_that_cannot_be_loaded(problem: Exception, reason: str) -> None:
    backend = Slow(problem)
    backend.loaded.set()
    async with serving(backend) as live:
        ready = await live.ask("GET", "/ready")
        assert (ready.status, ready.json["reason"]) == (503, reason)
        answer = await live.post(CHAT)
        assert (answer.status, answer.headers["x-should-retry"]) == (500, "false")
        assert answer.json["error"]["message"] == reason
        assert (await live.ask("GET", "/health")).status == 200


async def test_a_server_that_ends_while_loading() -> None:
    backend = Slow()
    async with serving(backend, wait_until_ready=False) as live:
        service = live.service
    assert service.settled.is_set()
    assert not service.ready
    assert not backend.running


async def test_a_draining_server_takes_no_new_work() -> None:
    async with serving("fine") as live:
        live.service.draining = True
        assert (await live.ask("GET", "/ready")).json["reason"] == "the server is shutting down"
        assert (await live.post(CHAT)).status == 503


async def test_a_model_without_a_draft_head_gets_a_mode_that_it_can_do() -> None:
    backend = ScriptedBackend("fine")
    backend.capabilities = replace(backend.capabilities, modes=("plain", "ngram"))
    async with serving(backend) as live:
        assert live.service.mode == DecodeMode("ngram")
        assert (await live.post(CHAT)).headers["x-specguard-mode"] == str(DecodeMode("ngram"))


async def test_the_configured_mode_is_kept_where_it_is_possible() -> None:
    async with serving("fine") as live:
        assert live.service.mode == FAST
    async with serving("fine", decode={"mode": "plain"}) as live:
        assert not live.service.mode.speculates


async def test_the_guard_section_reaches_the_policy() -> None:
    guard = {
        "action": "observe",
        "max_rewinds": 1,
        "hold_call_chars": 2048,
        "hold_text_chars": 4096,
        "max_call_cycles": 7,
    }
    async with serving("fine", guard=guard) as live:
        policy = live.service.policy
        assert (policy.action, policy.max_rewinds) == ("observe", 1)
        assert (policy.hold_call_chars, policy.hold_text_chars, policy.max_call_cycles) == (2048, 4096, 7)


def test_all_routes_that_are_announced_exist(tmp_path: object) -> None:
    app = create_app(Config(), ScriptedBackend(), IncidentStore(f"{tmp_path}/incidents.sqlite"))
    routes = {f"{route.method} {route.resource.canonical}" for route in app.router.routes() if route.resource}
    assert {"POST /v1/chat/completions", "POST /v1/messages", "POST /v1/messages/count_tokens"} <= routes
    assert {"GET /v1/models", "GET /health", "GET /ready"} <= routes
    assert isinstance(app, web.Application)
    assert app[SERVICE].not_ready() == "the model is still loading"


async def test_a_fallback_is_judged_by_itself_and_the_record_says_so() -> None:
    backend = Replayable(lambda rerun: LOOP if rerun.mode.speculates else SOUND, Script(SOUND, fast=LOOP))
    async with serving(backend, decode={"mode": "mtp+ngram"}, replay={"quiet_s": 0}) as live:
        assert (await live.post(CHAT)).status == 200
        replays = live.service.replays
        assert replays is not None
        await replays.settled()
        (record,) = await live.incidents()
    assert record.judged is not None and record.closed is not None
    assert (record.culprit, record.certainty) == ("speculation", "certain")
    assert [row["axis"] for row in record.judged["axes"]] == ["draft", "none"]


async def test_automatic_replays_can_be_switched_off() -> None:
    backend = Replayable(lambda rerun: LOOP, Script(SOUND, fast=LOOP))
    async with serving(backend, decode={"mode": "mtp+ngram"}, replay={"automatic": False}) as live:
        assert (await live.post(CHAT)).status == 200
        assert live.service.replays is None and len(await live.incidents()) == 1
    assert not backend.reruns
