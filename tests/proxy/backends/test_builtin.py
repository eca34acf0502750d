"""The built-in engine as a backend, with the embedded model: one worker, honest errors, nothing left running."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from engine.reports import AuditReport, StepReport
from engine.sequence import Sequence as TokenSequence
from policies.modes import PLAIN, DecodeMode
from proxy.backends.base import Audit, BackendError, BadPrompt, ContextTooLong, Overloaded, StepStats
from proxy.backends.builtin import BuiltinBackend, _as_delta
from proxy.conversation import ChatRequest, Message, PastCall, Sampling, Tool

FAST = DecodeMode("mtp+ngram")
TOOL = Tool("read_file", "Show a file.", {"type": "object", "properties": {"path": {"type": "string"}}})


def ask(text: str = "Say something.", **fields: object) -> ChatRequest:
    return ChatRequest("openai.chat", "m", (Message("user", text),), **fields)  # type: ignore[arg-type]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[BuiltinBackend]:
    built = BuiltinBackend(max_turns=2)
    await built.start()
    yield built
    await built.stop()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def drain(backend: BuiltinBackend, request: ChatRequest, mode: DecodeMode) -> tuple[list[int], str]:
    generation = await backend.generate(request, mode)
    ids: list[int] = []
    text = ""
    try:
        while (delta := await generation.next()) is not None:
            assert delta.position == len(ids)
            ids += [token.id for token in delta.tokens]
            text += "".join(token.text for token in delta.tokens)
    finally:
        await generation.close()
    return ids, text


async def test_tells_what_it_is(backend: BuiltinBackend) -> None:
    assert backend.info.id == "specguard-embedded"
    assert len(backend.info.fingerprint) == 16
    assert backend.capabilities.exactness == "bitwise"
    assert backend.capabilities.modes == ("plain", "ngram/full", "mtp/full", "mtp+ngram/full")


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_all_modes_say_the_same(backend: BuiltinBackend, temperature: float) -> None:
    request = ask(sampling=Sampling(temperature=temperature, seed=7), max_tokens=60, tools=(TOOL,))
    plain = await drain(backend, request, PLAIN)
    assert plain[0]
    for drafter in ("ngram", "mtp", "mtp+ngram"):
        assert await drain(backend, request, DecodeMode(drafter)) == plain


async def test_a_rewind_continues_as_plain_would(backend: BuiltinBackend) -> None:
    request = ask("Tell me about the numbers 1 2 3 1 2 3 1 2 3.", max_tokens=40)
    expected, _ = await drain(backend, request, PLAIN)
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


async def test_history_is_not_prefilled_again(backend: BuiltinBackend) -> None:
    first = ask("Remember the word zebra and the number 12345, please, and answer.", max_tokens=8)
    _, text = await drain(backend, first, PLAIN)
    messages = (*first.messages, Message("assistant", text), Message("user", "And now?"))
    generation = await backend.generate(ChatRequest("openai.chat", "m", messages, max_tokens=2), PLAIN)
    await generation.close()
    assert generation.cached_tokens > generation.prompt_tokens // 2


async def test_past_calls_and_results_are_rendered(backend: BuiltinBackend) -> None:
    messages = (
        Message("user", "go"),
        Message("assistant", "", calls=(PastCall("c1", "read_file", {"path": "a.py"}),)),
        Message("tool", "content", call_id="c1"),
    )
    short = await backend.count_tokens(messages[:1], (TOOL,))
    assert await backend.count_tokens(messages, (TOOL,)) > short


async def test_a_prompt_that_does_not_fit_is_refused(backend: BuiltinBackend) -> None:
    limit = backend.info.context_window
    with pytest.raises(ContextTooLong) as caught:
        await backend.generate(ask("word 1 " * limit), PLAIN)
    assert caught.value.limit == limit < caught.value.tokens
    assert (await drain(backend, ask(max_tokens=3), PLAIN))[0]


async def test_limits_of_turns_and_modes(backend: BuiltinBackend) -> None:
    with pytest.raises(BadPrompt, match="k4v4"):
        await backend.generate(ask(), DecodeMode("none", "k4v4"))
    held = [await backend.generate(ask(max_tokens=2), PLAIN) for _ in range(2)]
    with pytest.raises(Overloaded):
        await backend.generate(ask(), PLAIN)
    for generation in held:
        await generation.close()
        await generation.close()
    assert (await drain(backend, ask(max_tokens=2), PLAIN))[0]


async def test_a_cancelled_request_frees_its_place(backend: BuiltinBackend) -> None:
    for _ in range(4):
        task = asyncio.ensure_future(backend.generate(ask("word " * 1500), PLAIN))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await drain(backend, ask(max_tokens=2), PLAIN))[0]


@pytest.mark.parametrize("running", [False, True])
async def test_a_request_cancelled_while_it_is_opened_loses_no_kept_prefix(
    backend: BuiltinBackend, running: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = ask("word " * 300, max_tokens=2)
    await drain(backend, question, PLAIN)
    kept = len(backend.engine.prefixes)
    release, waiting = threading.Event(), threading.Event()
    take = backend.engine.prefixes.take

    def wait() -> None:
        waiting.set()
        release.wait(20)

    def take_slowly(prompt: Sequence[int]) -> TokenSequence:
        wait()
        return take(prompt)

    if running:
        monkeypatch.setattr(backend.engine.prefixes, "take", take_slowly)
    else:
        backend._worker.submit(wait)  # opening queues behind this
    task = asyncio.ensure_future(backend.generate(question, PLAIN))
    await asyncio.to_thread(waiting.wait, 20)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    await backend.run(lambda: None)
    assert (len(backend.engine.prefixes), backend._turns) == (kept, 0)


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


async def test_bad_options_and_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="verify-ignores-cache"):
        BuiltinBackend(plant="nonsense")
    with pytest.raises(BackendError, match="float8"):
        BuiltinBackend(dtype="float8")
    empty = BuiltinBackend(tmp_path)
    with pytest.raises(BackendError, match=r"tokenizer\.json|config\.json"):
        await empty.start()
    with pytest.raises(Overloaded, match="loading"):
        await empty.generate(ask(), PLAIN)
    await empty.stop()


async def test_what_the_engine_reports_of_a_step_reaches_the_guard() -> None:
    report = StepReport(3, (), "mtp", 7, 2, 1.5, 40, AuditReport(3, 1, 0.5), "stop", None, "x", "mtp")
    delta = _as_delta(report, FAST)
    assert delta.step == StepStats(FAST, "mtp", 7, 2, 1.5, 40, Audit(3, 1, 0.5), "mtp")
    assert (delta.position, delta.end, delta.tail) == (3, "stop", "x")
