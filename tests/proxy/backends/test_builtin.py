"""The built-in engine as a backend, with the embedded model: one worker, honest errors, nothing left running."""

from __future__ import annotations

import asyncio
import json
import threading
import weakref
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from engine.memory import Budget
from engine.reports import StepReport
from engine.sequence import Sequence as TokenSequence
from engine.turn import Turn
from policies.modes import PLAIN, DecodeMode
from proxy.backends import upkeep
from proxy.backends.base import Delta, Generation
from proxy.backends.builtin import BuiltinBackend, BuiltinGeneration
from proxy.backends.errors import BackendError, BadPrompt, ContextTooLong, EngineLost, Overloaded
from proxy.conversation import ChatRequest, Message, PastCall, Sampling, Tool
from tests.engine.conftest import write_model

FAST = DecodeMode("mtp+ngram")
TOOL = Tool("read_file", "Show a file.", {"type": "object", "properties": {"path": {"type": "string"}}})


def ask(text: str = "Say something.", **fields: object) -> ChatRequest:
    return ChatRequest("openai.chat", "m", (Message("user", text),), **fields)  # type: ignore[arg-type]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[BuiltinBackend]:
    built = BuiltinBackend(max_turns=3, max_waiting=1)
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
    assert backend.capabilities.modes[:4] == ("plain", "ngram/full", "mtp/full", "mtp+ngram/full")
    assert {"none/k4v4", "mtp+ngram/k4v4", "ngram/k8v8"} < set(backend.capabilities.modes)


async def test_what_is_discarded_is_kept_for_nobody_and_memory_is_told(backend: BuiltinBackend) -> None:
    request = ask("Discard me. " * 40, max_tokens=4)
    kept, before = backend.engine.memory().kept, await backend.memory()
    assert before["weights"] > 1 << 20
    generation = await backend.generate(request, PLAIN)
    await generation.next()
    assert (await backend.memory())["sequences"] > before["sequences"]
    await generation.discard()
    await generation.close()
    assert backend.engine.memory().kept == kept
    again = await backend.generate(request, PLAIN)
    assert again.cached_tokens == 0
    await again.close()
    assert backend.engine.memory().kept == kept + 1


async def test_it_says_whether_a_cache_has_room(backend: BuiltinBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend.fits(PLAIN, 1000) and backend.fits(DecodeMode("none", "k4v4"), 1000)
    needed = backend.engine.model.cache_bytes("full", 1000)
    monkeypatch.setattr(backend.engine, "budget", Budget(backend.engine.model.device, needed - 1))
    assert not backend.fits(PLAIN, 1000) and not backend.fits(FAST, 1000)
    assert backend.fits(DecodeMode("none", "k4v4"), 1000)


PENALISED = Sampling(0.8, 0.95, 40, 0.01, 7, 1.1, 0.5, 0.3, ((11, 2.0), (12, -100.0)))


@pytest.mark.parametrize("sampling", [Sampling(0.0, seed=7), Sampling(0.8, seed=7), PENALISED])
async def test_all_modes_say_the_same(backend: BuiltinBackend, sampling: Sampling) -> None:
    request = ask(sampling=sampling, max_tokens=60, tools=(TOOL,))
    plain = await drain(backend, request, PLAIN)
    assert plain[0]
    for drafter in ("ngram", "mtp", "mtp+ngram"):
        assert await drain(backend, request, DecodeMode(drafter)) == plain


async def test_responses_at_once_say_what_each_says_alone(backend: BuiltinBackend) -> None:
    """Mixed modes and samplings, prompts that are prefilled while others decode; steps really are shared."""
    requests = [
        (ask("word " * 200, max_tokens=30), FAST),
        (ask("Count 1 2 3 4 1 2 3 4", sampling=Sampling(temperature=0.9, seed=5), max_tokens=40), DecodeMode("ngram")),
        (ask("Say something.", max_tokens=25), PLAIN),
    ]
    alone = [await drain(backend, request, mode) for request, mode in requests]
    backend.engine.prefixes.clear()
    widths: list[int] = []
    step = backend.engine.step

    def counted(turns: Sequence[Turn]) -> list[StepReport | Exception]:
        widths.append(len(turns))
        return step(turns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend.engine, "step", counted)
        together = await asyncio.gather(*(drain(backend, request, mode) for request, mode in requests))
    assert together == alone
    assert max(widths) > 1
    assert backend._queue.running == 0


async def test_a_reader_that_stops_reading_stalls_nobody(backend: BuiltinBackend) -> None:
    asleep = await backend.generate(ask("word " * 50, max_tokens=200), PLAIN)
    await asleep.next()
    assert (await asyncio.wait_for(drain(backend, ask(max_tokens=20), PLAIN), 30))[0]
    length = asleep._turn.sequence.length
    await asyncio.sleep(0.05)
    assert asleep._turn.sequence.length == length
    await asleep.close()


async def test_agents_that_start_at_once_share_system_prompt_and_tools(backend: BuiltinBackend) -> None:
    backend.engine.prefixes.clear()
    system = Message("system", "You repair code, and you do it with care. " * 12)
    asked = [
        ChatRequest("openai.chat", "m", (system, Message("user", text)), tools=(TOOL,), max_tokens=3)
        for text in ("Repair the first thing, it is broken.", "And another thing, " * 20)
    ]
    first = await backend.generate(asked[0], PLAIN)
    second = await backend.generate(asked[1], PLAIN)
    assert first.cached_tokens == 0
    assert second.cached_tokens > 100
    text = [delta.tokens[0].id async for delta in deltas(second)]
    await first.close()
    await second.close()
    backend.engine.prefixes.clear()
    assert (await drain(backend, asked[1], PLAIN))[0][: len(text)] == text


async def deltas(generation: Generation) -> AsyncIterator[Delta]:
    while (delta := await generation.next()) is not None:
        if delta.tokens:
            yield delta


async def test_penalties_and_biases_reach_the_engine(backend: BuiltinBackend) -> None:
    plain, _ = await drain(backend, ask("Go on.", max_tokens=20), PLAIN)
    for changes in (
        Sampling(logit_bias=((plain[0], -100.0),)),
        Sampling(repetition_penalty=2.0),
        Sampling(presence_penalty=2.0, frequency_penalty=2.0),
    ):
        assert (await drain(backend, ask("Go on.", max_tokens=20, sampling=changes), PLAIN))[0] != plain
    with pytest.raises(BadPrompt, match=r"^logit_bias: token 99999999 ") as caught:
        await backend.generate(ask(sampling=Sampling(logit_bias=((99999999, 1.0),))), PLAIN)
    assert caught.value.param == "logit_bias"


@pytest.mark.parametrize("logprobs", [None, 0, 4])
async def test_bytes_and_alternatives_on_request(backend: BuiltinBackend, logprobs: int | None) -> None:
    generation = await backend.generate(ask(max_tokens=6, logprobs=logprobs), FAST)
    tokens = []
    while (delta := await generation.next()) is not None:
        tokens += delta.tokens
    await generation.close()
    assert tokens
    for token in tokens:
        assert len(token.top) == (logprobs or 0)
        assert token.data == (b"" if logprobs is None else backend.engine.tokenizer.token_bytes(token.id))
        if token.top:  # greedy
            assert (token.top[0].id, token.top[0].data, token.top[0].logprob) == (token.id, token.data, token.logprob)


async def test_history_is_not_prefilled_again(backend: BuiltinBackend) -> None:
    first = ask("Remember the word zebra and the number 12345, please, and answer. " * 9, max_tokens=8)
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


async def test_a_compressed_cache_is_plain_too_and_leads_back_to_full(backend: BuiltinBackend) -> None:
    """Drafts change nothing on codes; after a rewind to `plain` the text is what a full cache gives from there."""
    request = ask(max_tokens=60, tools=(TOOL,))
    coded = await drain(backend, request, DecodeMode("none", "k4v4"))
    assert await drain(backend, request, DecodeMode("mtp+ngram", "k4v4")) == coded
    full = await drain(backend, request, PLAIN)
    generation = await backend.generate(request, DecodeMode("mtp+ngram", "k4v4"))
    delta = await generation.next()
    assert delta is not None
    assert str(delta.step.mode) == "mtp+ngram/k4v4"
    report = await generation.rewind(0, PLAIN, "trusted")
    assert (report.mode, report.level) == (PLAIN, "L3")
    assert report.rebuilt == generation.prompt_tokens - 1
    ids: list[int] = []
    while (next_delta := await generation.next()) is not None:
        ids += [token.id for token in next_delta.tokens]
    await generation.close()
    assert ids == full[0]


async def test_limits_of_turns_and_modes(backend: BuiltinBackend) -> None:
    with pytest.raises(BadPrompt, match=r"^kv: 'k3v3' .* tool calls"):
        await backend.generate(ask(tools=(TOOL,)), DecodeMode("none", "k3v3"))
    held = [await backend.generate(ask(max_tokens=2), PLAIN) for _ in range(3)]
    waiting = asyncio.ensure_future(backend.generate(ask(max_tokens=2), PLAIN))
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        await backend.generate(ask(), PLAIN)
    assert not waiting.done()
    for generation in held:
        await generation.close()
        await generation.close()
    await (await waiting).close()
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

    def take_slowly(prompt: Sequence[int], codec: str) -> TokenSequence:
        wait()
        return take(prompt, codec)

    if running:
        monkeypatch.setattr(backend.engine.prefixes, "take", take_slowly)
    else:
        backend._upkeep._worker.call(wait)  # opening queues behind this
    task = asyncio.ensure_future(backend.generate(question, PLAIN))
    await asyncio.to_thread(waiting.wait, 20)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    await backend.run(lambda: None)
    assert (len(backend.engine.prefixes), backend._queue.running) == (kept, 0)


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


async def test_what_the_loader_noticed_is_told(tmp_path: Path) -> None:
    """Quantised repositories often announce a head that no file holds: speculation must not be off in silence."""
    folder = write_model(tmp_path / "model", mtp=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mtp_num_hidden_layers": 1}))
    built = BuiltinBackend(folder)
    await built.start()
    assert "MTP is off" in built.info.details["notes"]
    assert "mtp/full" not in built.capabilities.modes
    await built.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def dying() -> AsyncIterator[BuiltinBackend]:
    built = BuiltinBackend(max_turns=1, max_waiting=1, plant="worker-dies")
    await built.start()
    yield built
    await built.stop()


async def killed(generation: BuiltinGeneration) -> None:
    with pytest.raises(EngineLost):
        while await generation.next() is not None:
            pass


async def recovered(backend: BuiltinBackend) -> None:
    async with asyncio.timeout(60):
        while backend._upkeep._restarted_at is None or backend.trouble is not None:  # noqa: ASYNC110  # told when asked
            await asyncio.sleep(0.01)


async def test_a_dead_engine_is_gone_before_a_fresh_one_is_loaded(
    dying: BuiltinBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be no room for both."""
    old, load, alive = weakref.ref(dying.engine.model), dying._load, list[bool]()

    def load_and_tell() -> Any:
        alive.append(old() is not None)
        return load()

    monkeypatch.setattr(dying, "_load", load_and_tell)

    async def respond() -> None:
        generation = await dying.generate(ask(max_tokens=40), PLAIN)
        await killed(generation)
        await generation.close()

    await respond()
    await recovered(dying)
    assert alive == [False]


async def test_who_has_waited_through_a_restart_is_served_by_the_fresh_engine(
    dying: BuiltinBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "GONE_S", 0.1)  # `first` holds the old one
    first = await dying.generate(ask(max_tokens=40), PLAIN)
    waiting = asyncio.ensure_future(dying.generate(ask(max_tokens=4), PLAIN))
    await killed(first)
    await recovered(dying)
    assert not waiting.done()
    with pytest.raises(EngineLost, match="restarted"):
        await first.rewind(2, PLAIN)
    await first.close()
    second = await waiting
    assert second._turn.sequence.model is dying.engine.model
    assert await second.next() is not None
    await second.close()
