"""What handlers share: who may be asked for, in which mode, and when the server is idle."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from policies.modes import DecodeMode
from policies.overrides import effective
from policies.policy import Policy
from policies.rule_file import parse
from proxy.configuration.config import Config
from proxy.conversation import ChatRequest, Decoding, Message, Sampling, Tool
from proxy.errors import RequestError
from proxy.events import Finished
from proxy.incidents import IncidentStore
from proxy.server.service import Service
from proxy.sinks import Sinks
from tests.proxy.scripted import ScriptedBackend


@pytest.fixture
def store(tmp_path: Path) -> Any:
    store = IncidentStore(tmp_path / "incidents.sqlite")
    yield store
    store.close()


def service(store: IncidentStore, **model: Any) -> Service:
    config = Config.model_validate({"model": model})
    return Service(config, ScriptedBackend("text"), store, Policy(), DecodeMode.parse("mtp+ngram"))


def asking(model: str, **fields: Any) -> ChatRequest:
    return ChatRequest(api="openai.chat", model=model, messages=(Message("user", "go"),), **fields)


def test_readiness_has_a_reason(store: IncidentStore) -> None:
    made = service(store)
    assert made.not_ready() == "the model is still loading"
    made.ready = True
    assert made.not_ready() == ""
    made.draining = True
    assert made.not_ready() == "the server is shutting down"
    made.failure = "model.path: there is no such folder"
    assert made.not_ready() == made.failure


def test_idle_while_nothing_is_counted(store: IncidentStore) -> None:
    made = service(store)
    assert made.idle.is_set()
    with pytest.raises(RuntimeError), made.counted():
        with made.counted():
            assert made.in_flight == 2
        assert made.in_flight == 1 and not made.idle.is_set()
        raise RuntimeError
    assert made.in_flight == 0 and made.idle.is_set()


def test_models_are_known_by_name_and_alias(store: IncidentStore) -> None:
    made = service(store, aliases=["sonnet"])
    assert made.known_models() == ["scripted", "sonnet"]
    for name in made.known_models():
        made.session(asking(name))


def test_an_unknown_model_is_refused_with_the_known_ones(store: IncidentStore) -> None:
    with pytest.raises(RequestError) as caught:
        service(store).session(asking("gpt-5" + "x" * 500))
    assert (caught.value.kind, caught.value.param) == ("unknown_model", "model")
    assert "scripted" in caught.value.message and len(caught.value.message) < 200


def test_any_name_may_be_allowed(store: IncidentStore) -> None:
    service(store, any_name=True).session(asking("claude-something"))


async def test_a_request_may_choose_its_drafter(store: IncidentStore) -> None:
    made = service(store)
    for wanted, mode in ((None, "mtp+ngram/full"), ("none", "plain"), ("ngram", "ngram/full")):
        events = [event async for event in made.session(asking("scripted", decoding=Decoding(wanted))).events()]
        assert isinstance(events[-1], Finished)
        assert events[-1].mode == mode


@pytest.mark.parametrize(("configured", "asked", "used"), [(-1, None, 1234), (7, None, 7), (7, 9, 9), (0, None, 0)])
async def test_the_configured_seed_is_for_requests_that_name_none(
    store: IncidentStore, configured: int, asked: int | None, used: int
) -> None:
    backend = ScriptedBackend("text")
    config = Config.model_validate({"decode": {"seed": configured}})
    made = Service(config, backend, store, Policy(), DecodeMode.parse("plain"))
    request = asking("scripted", sampling=Sampling(temperature=0.5, seed=asked))
    assert [event async for event in made.session(request).events()]
    assert (backend.generations[0].seed, backend.requests[0].sampling.temperature) == (used, 0.5)


FILE = """
[[override]]
name = "shell"
tool = "bash"
max_rewinds = 1
[[override]]
name = "messages"
route = "anthropic.*"
max_rewinds = 3
[[override]]
name = "aliased"
model = "son*"
max_rewinds = 4
[[override]]
name = "team"
header.x-team = "red"
session_rewinds = 5
[[override]]
name = "trial"
action = "observe"
"""


def overridden(store: IncidentStore) -> Service:
    policy, overrides = effective(parse(FILE), {})
    config = Config.model_validate({"model": {"aliases": ["sonnet"]}})
    return Service(config, ScriptedBackend("text"), store, policy, DecodeMode("mtp"), overrides=overrides)


@pytest.mark.parametrize(
    ("fields", "headers", "name"),
    [
        ({}, {}, ""),
        ({"tools": (Tool("ls"), Tool("bash"))}, {}, "shell"),
        ({"api": "anthropic.messages"}, {}, "messages"),
        ({"model": "sonnet"}, {}, "aliased"),
        ({}, {"X-Team": "red"}, "team"),
        ({}, {"x-specguard-policy": "shell"}, "shell"),
    ],
)
def test_overrides_are_matched_by_what_a_request_is(
    store: IncidentStore, fields: dict[str, Any], headers: dict[str, str], name: str
) -> None:
    request = replace(asking("scripted"), **fields)
    assert overridden(store).session(request, "", headers).policy.override == name


@pytest.mark.parametrize(
    ("asked", "kind", "words"),
    [("trial", "forbidden", "observe_by_header"), ("tril", "invalid_request", "known: shell, messages")],
)
def test_a_policy_that_a_client_may_not_choose(store: IncidentStore, asked: str, kind: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        overridden(store).session(asking("scripted"), "", {"X-Specguard-Policy": asked})
    assert (caught.value.kind, caught.value.param) == (kind, "x-specguard-policy")
    assert words in caught.value.message


def test_without_overrides_a_named_policy_is_refused_too(store: IncidentStore) -> None:
    with pytest.raises(RequestError, match="none is configured"):
        service(store).session(asking("scripted"), "", {"X-Specguard-Policy": "any"})


def test_a_sessions_budget_is_its_owners(store: IncidentStore) -> None:
    made = overridden(store)
    request = asking("scripted", session="s")
    mine, same, other = (made.session(request, owner).budget for owner in ("me", "me", "you"))
    assert mine is not None and same is not None and other is not None
    for _ in range(20):
        mine.spend()
    assert (mine.limit, mine.hours) == (20, 6.0)
    assert same.exhausted() is not None
    assert other.exhausted() is None


def test_the_origin_names_the_policy(store: IncidentStore) -> None:
    assert service(store).origin.policy == "shipped"
    assert overridden(store).origin.policy_sha256 != service(store).origin.policy_sha256


def test_the_numbers_of_the_detectors_reach_whoever_watches(store: IncidentStore) -> None:
    numbers = {"stall": {"factor": 7}, "drift": {"validity_calls": 9}}
    config = Config.model_validate({"detectors": numbers})
    made = Service(config, ScriptedBackend("text"), store, Policy(), DecodeMode.parse("mtp+ngram"))
    session = made.session(asking("scripted"))
    assert session.detectors is config.detectors and session.detectors.stall.factor == 7
    assert session.shadow is made.shadow and made.shadow.validity._settings.validity_calls == 9


async def stricter(store: IncidentStore, detectors: dict[str, Any]) -> list[str]:
    """Who speaks about a text that says four words 30 times."""
    backend = ScriptedBackend(" so we go on" * 30)
    made = Service(Config.model_validate({"detectors": detectors}), backend, store, Policy(), DecodeMode.parse("plain"))
    told: list[str] = []

    class Told:
        def opened(self, incident: Any, capture: Any = None) -> None:
            told.append(incident.detector)

        def closed(self, closure: Any) -> None:
            pass

        def judged(self, judgement: Any) -> None:
            pass

    made.sinks = Sinks((Told(),))
    async for _ in made.session(asking("scripted")).events():
        pass
    return told


def test_a_response_is_watched_by_them(store: IncidentStore) -> None:
    prose = {"suspect": {"covered": 64}, "fallback": {"covered": 80}, "abort": {"copies": 6, "covered": 100}}
    assert asyncio.run(stricter(store, {})) == []
    assert asyncio.run(stricter(store, {"loops": {"prose": prose}})) == ["loop.period"]
