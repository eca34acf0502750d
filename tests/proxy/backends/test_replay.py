"""Replays on the built-in engine: nothing that clients see changes, and they come first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from policies.modes import PLAIN, DecodeMode
from proxy.backends.base import Replayer, Rerun
from proxy.backends.builtin import BuiltinBackend
from proxy.backends.errors import BadPrompt, ContextTooLong, Preempted
from proxy.conversation import ChatRequest, Demands, Message, Sampling

FAST = DecodeMode("mtp+ngram")
pytestmark = pytest.mark.asyncio(loop_scope="module")
REQUEST = ChatRequest(
    "openai.chat",
    "m",
    (Message("system", "You repair code, and you do it with care. " * 12), Message("user", "Say something.")),
    sampling=Sampling(0.8, seed=3),
    max_tokens=40,
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[BuiltinBackend]:
    built = BuiltinBackend(max_turns=1, max_waiting=2)
    await built.start()
    yield built
    await built.stop()


async def served(
    backend: BuiltinBackend, request: ChatRequest = REQUEST, mode: DecodeMode = FAST
) -> tuple[Rerun, list[int]]:
    """What was said, and how to say it again."""
    generation = await backend.generate(request, mode)
    said: list[int] = []
    while (delta := await generation.next()) is not None:
        said += [token.id for token in delta.tokens]
    await generation.close()
    return Rerun(request, generation.prompt_ids, generation.seed, mode, generation.cached_tokens), said


async def again(backend: BuiltinBackend, rerun: Rerun) -> list[int]:
    replayed = await backend.replay(rerun)
    said: list[int] = []
    while (delta := await replayed.next()) is not None:
        assert delta.position == len(said)
        said += [token.id for token in delta.tokens]
    await replayed.close()
    assert await replayed.next() is None
    return said


def kept(backend: BuiltinBackend) -> list[tuple[int, str]]:
    store = backend.engine.prefixes
    return [(id(each), each.state.fingerprint()) for each in (*store._kept, *store._lent)]


async def test_a_replay_says_what_was_said_and_leaves_no_trace(backend: BuiltinBackend) -> None:
    assert isinstance(backend, Replayer)
    await served(backend)
    rerun, said = await served(backend)
    assert rerun.reuse > 64
    before = kept(backend)
    for mode in (FAST, PLAIN):
        assert await again(backend, replace(rerun, mode=mode)) == said
        assert await again(backend, replace(rerun, mode=mode, reuse=0)) == said
        assert await again(backend, replace(rerun, mode=mode, forced=tuple(said[:11]))) == said
    assert kept(backend) == before
    assert backend.is_idle


async def test_what_a_run_tells(backend: BuiltinBackend) -> None:
    rerun, said = await served(backend)
    replayed = await backend.replay(replace(rerun, forced=tuple(said[:8]), check_every=4))
    assert (replayed.prefix, replayed.reused) == ("kept", rerun.reuse)
    forced = await replayed.next()
    assert forced is not None and [token.id for token in forced.tokens] == said[:8]
    steps = []
    while (delta := await replayed.next()) is not None:
        steps.append(delta.step)
    assert all(step.audit is not None and step.audit.mismatch is None for step in steps if step.drafted)
    assert any(step.drafted for step in steps)
    checks = [step.shadow for step in steps if step.shadow is not None]
    assert checks and all(check.identical for check in checks)


async def test_clients_come_first_even_in_a_place_for_one(backend: BuiltinBackend) -> None:
    rerun, said = await served(backend)
    replayed = await backend.replay(rerun)
    await replayed.next()
    generation = await backend.generate(REQUEST, PLAIN)
    with pytest.raises(Preempted):
        await replayed.next()
    with pytest.raises(Preempted):
        await backend.replay(rerun)
    await replayed.close()
    text = []
    while (delta := await generation.next()) is not None:
        text += [token.id for token in delta.tokens]
    assert text == said
    await generation.close()
    assert await again(backend, rerun) == said


async def test_a_client_that_comes_during_the_prefill_interrupts_it(backend: BuiltinBackend) -> None:
    rerun, _ = await served(backend)
    long = replace(rerun, prompt_ids=rerun.prompt_ids * 10, reuse=0)
    running = asyncio.ensure_future(backend.replay(long))
    await asyncio.sleep(0)
    await served(backend)
    with pytest.raises(Preempted):
        await running


async def test_a_cancelled_run_leaves_no_trace(backend: BuiltinBackend) -> None:
    rerun, said = await served(backend)
    before = kept(backend)
    running = asyncio.ensure_future(again(backend, rerun))
    await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert kept(backend) == before
    assert await again(backend, rerun) == said


async def test_without_the_filter_nothing_is_filtered(backend: BuiltinBackend) -> None:
    demands = Demands(text_schema={"type": "integer"}, text_schema_at="response_format")
    rerun, said = await served(backend, replace(REQUEST, demands=demands))
    free, freely = await served(backend)
    assert said != freely
    assert await again(backend, rerun) == said
    assert await again(backend, replace(rerun, filtered=False)) == freely == await again(backend, free)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"prompt_ids": (5,) * 5000}, ContextTooLong),
        ({"mode": DecodeMode("none", "k3v3"), "reuse": 10_000}, BadPrompt),
        ({"reuse": 10_000}, BadPrompt),
    ],
)
async def test_what_cannot_be_run_is_told(
    backend: BuiltinBackend, change: dict[str, object], error: type[Exception]
) -> None:
    rerun, _ = await served(backend)
    limit = backend.engine.model.config.max_context
    if "prompt_ids" in change:
        change = {"prompt_ids": (5,) * limit}
    with pytest.raises(error):
        await again(backend, replace(rerun, **change))  # type: ignore[arg-type]
    assert backend.is_idle
