"""What handlers share: who may be asked for, in which mode, and when the server is idle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policies.modes import DecodeMode
from policies.policy import Policy
from proxy.config import Config
from proxy.conversation import ChatRequest, Message, Sampling
from proxy.errors import RequestError
from proxy.events import Finished
from proxy.incidents import IncidentStore
from proxy.service import Service
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
        events = [event async for event in made.session(asking("scripted", mode=wanted)).events()]
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
