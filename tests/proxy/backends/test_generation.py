"""A response of the built-in engine: rewound, closed, discarded; whatever happens the turn goes back once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from policies.modes import PLAIN, DecodeMode
from proxy.backends.base import Delta, Generation
from proxy.backends.builtin import BuiltinBackend
from proxy.conversation import ChatRequest, Message

FAST = DecodeMode("mtp+ngram")


def ask(text: str = "Say something.", **fields: object) -> ChatRequest:
    return ChatRequest("openai.chat", "m", (Message("user", text),), **fields)  # type: ignore[arg-type]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[BuiltinBackend]:
    built = BuiltinBackend(max_turns=3, max_waiting=1)
    await built.start()
    yield built
    await built.stop()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def deltas(generation: Generation) -> AsyncIterator[Delta]:
    while (delta := await generation.next()) is not None:
        yield delta


async def test_a_rewind_continues_as_plain_would(backend: BuiltinBackend) -> None:
    request = ask("Tell me about the numbers 1 2 3 1 2 3 1 2 3.", max_tokens=40)
    plain = await backend.generate(request, PLAIN)
    expected = [token.id async for delta in deltas(plain) for token in delta.tokens]
    await plain.close()
    generation = await backend.generate(request, FAST)
    ids: list[int] = []
    while (delta := await generation.next()) is not None:
        ids += [token.id for token in delta.tokens]
    keep = len(ids) // 2
    report = await generation.rewind(keep, PLAIN, "trusted")
    assert (report.position, report.mode) == (keep, PLAIN)
    ids = ids[:keep]
    while (delta := await generation.next()) is not None:
        assert delta.step.drafted == 0
        ids += [token.id for token in delta.tokens]
    await generation.close()
    assert ids == expected


async def test_steps_in_a_row_are_those_that_one_by_one_would_be(backend: BuiltinBackend) -> None:
    request = ask("Tell me about the numbers 1 2 3 1 2 3 1 2 3.", max_tokens=40)
    single = await backend.generate(request, FAST)
    expected = [delta async for delta in deltas(single)]
    await single.close()
    aside: list[Delta] = []
    asked: list[Delta] = []

    def waits(delta: Delta) -> bool:
        asked.append(delta)
        if delta.end is None and len(asked) % 3:
            aside.append(delta)
            return True
        return False

    generation = await backend.generate(request, FAST)
    told = []
    while (delta := await generation.next(waits)) is not None:
        told.append(delta)
    await generation.close()

    # a call that waits on the thread would make a step the last one without asking; there is none
    def said(all_: list[Delta]) -> list[tuple[int, tuple[int, ...], str | None]]:
        return [(each.position, tuple(token.id for token in each.tokens), each.end) for each in all_]

    assert said(asked) == said(expected)
    assert [id(each) for each in asked if each not in aside] == [id(each) for each in told]
    assert len(told) == -(-len(expected) // 3)


async def test_closing_ends_steps_in_a_row(backend: BuiltinBackend) -> None:
    generation = await backend.generate(ask(max_tokens=500), PLAIN)
    loop, made, under_way = asyncio.get_running_loop(), [], asyncio.Event()

    def waits(delta: Delta) -> bool:
        made.append(delta)
        if len(made) == 3:
            loop.call_soon_threadsafe(under_way.set)
        return True

    step = asyncio.ensure_future(generation.next(waits))
    await asyncio.wait_for(under_way.wait(), 20)
    step.cancel()
    await generation.close()
    length = generation._turn.sequence.length
    await asyncio.sleep(0.1)
    assert generation._turn.sequence.length == length
    with pytest.raises(asyncio.CancelledError):
        await step


async def test_closing_stops_within_one_step(backend: BuiltinBackend) -> None:
    generation = await backend.generate(ask(max_tokens=500), PLAIN)
    await generation.next()
    step = asyncio.ensure_future(generation.next())
    await asyncio.sleep(0)
    step.cancel()
    await generation.close()
    length = generation._turn.sequence.length
    await asyncio.sleep(0.1)
    assert generation._turn.sequence.length == length


@pytest.mark.parametrize("kept", [True, False])
async def test_the_turn_goes_back_once(backend: BuiltinBackend, kept: bool) -> None:
    backend.engine.prefixes.clear()
    generation = await backend.generate(ask("word " * 120, max_tokens=5), FAST)
    await generation.next()
    for _ in range(2):
        await (generation.close() if kept else generation.discard())
    assert backend._queue.running == 0
    again = await backend.generate(ask("word " * 120, max_tokens=5), FAST)
    assert (again.cached_tokens > 0) is kept
    await again.close()


async def test_it_tells_its_prompt_and_what_came_from_a_prefix(backend: BuiltinBackend) -> None:
    request = ask("Tell me. " * 20, max_tokens=3)
    generation = await backend.generate(request, PLAIN)
    assert len(generation.prompt_ids) == generation.prompt_tokens == await backend.count_tokens(request.messages, ())
    assert generation.cached_tokens < generation.prompt_tokens
    await generation.close()
