"""`speculative` and `kv` of a request on all APIs, through the official clients, on the embedded model: the same words,
other drafts, and a response that tells what really ran."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio

from engine.engine import EMBEDDED
from engine.tokenizer import Tokenizer
from proxy.backends.builtin import BuiltinBackend
from tests.proxy.live import CHAT, OPENAI_TOOLS, Live, serving

MODEL = "specguard-embedded"
TEXT = "Repeat this three times: the quick brown fox jumps over the lazy dog, the quick brown fox jumps again."
TOKENS = 64
TOKENIZER = Tokenizer.load(EMBEDDED)
UNWANTED = {*TOKENIZER.eos_ids, TOKENIZER.token_id("<tool_call>"), TOKENIZER.token_id("<|im_start|>")}
BIAS = {"logit_bias": {str(token): -100 for token in UNWANTED if token is not None}}
"""Text to the last token: the embedded model would rather call a tool."""
pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True, slots=True)
class Answered:
    """By an official client. told: the object `specguard`; headers: of the response."""

    text: str
    told: Any
    timings: Any
    headers: Any


async def chat(live: Live, stream: bool, extra: dict[str, Any]) -> Answered:
    async with live.openai() as client:
        ask = {"model": MODEL, "messages": [{"role": "user", "content": TEXT}], "max_tokens": TOKENS}
        raw: Any = await client.chat.completions.with_raw_response.create(**ask, stream=stream, extra_body=BIAS | extra)  # type: ignore[call-overload]
        whole = await _parsed(raw)
        if not stream:
            return Answered(whole.choices[0].message.content, _told(whole), whole.timings, raw.headers)
        chunks = [chunk async for chunk in whole]
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        last = next(chunk for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason)
        return Answered(text, _told(last), last.timings, raw.headers)


async def responses(live: Live, stream: bool, extra: dict[str, Any]) -> Answered:
    async with live.openai() as client:
        ask = {"model": MODEL, "input": TEXT, "max_output_tokens": TOKENS, "store": False}
        raw: Any = await client.responses.with_raw_response.create(**ask, stream=stream, extra_body=BIAS | extra)  # type: ignore[call-overload]
        whole = await _parsed(raw)
        if stream:
            *_, last = [event async for event in whole]
            whole = last.response
        return Answered(whole.output_text, _told(whole), whole.timings, raw.headers)


async def messages(live: Live, stream: bool, extra: dict[str, Any]) -> Answered:
    async with live.anthropic() as client:
        ask = {"model": MODEL, "messages": [{"role": "user", "content": TEXT}], "max_tokens": TOKENS}
        raw: Any = await client.messages.with_raw_response.create(**ask, stream=stream, extra_body=BIAS | extra)  # type: ignore[call-overload]
        whole = await _parsed(raw)
        if not stream:
            return Answered(whole.content[0].text, _told(whole), whole.timings, raw.headers)
        events = [event async for event in whole]
        text = "".join(event.delta.text for event in events if event.type == "content_block_delta")
        last = next(event for event in events if event.type == "message_delta")
        return Answered(text, _told(last), last.timings, raw.headers)


async def _parsed(raw: Any) -> Any:
    """Some clients parse at once, some when it is awaited."""
    found = raw.parse()
    return await found if isawaitable(found) else found


def _told(found: Any) -> Any:
    return getattr(found, "specguard", None)


@asynccontextmanager
async def _serving(**sections: Any) -> AsyncIterator[Live]:
    async with serving(BuiltinBackend(), **sections) as live:  # type: ignore[arg-type]
        yield live


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live() -> AsyncIterator[Live]:
    async with _serving() as live:
        yield live


@pytest.mark.parametrize(
    ("ask", "stream"),
    [(chat, False), (chat, True), (responses, True), (messages, False)],
    ids=["chat", "chat-stream", "responses-stream", "messages"],
)
async def test_a_request_chooses_its_drafts_and_not_its_words(
    live: Live, ask: Callable[..., Awaitable[Answered]], stream: bool
) -> None:
    usual = await ask(live, stream, {})
    assert usual.told is None
    assert usual.timings["draft_n"] > 0
    assert usual.headers["x-specguard-mode"] == "mtp+ngram/full"

    plain = await ask(live, stream, {"speculative": {"enabled": False}})
    assert (plain.text, plain.timings["draft_n"]) == (usual.text, 0)
    assert (plain.told["mode"], plain.headers["x-specguard-mode"]) == ("plain", "plain")
    assert plain.told["speculative"]["enabled"] is False

    for most in (1, 3):
        short = await ask(live, stream, {"speculative": {"n_max": most}})
        assert short.text == usual.text
        assert short.told["speculative"]["longest_draft"] == short.told["speculative"]["n_max"] == most
        assert short.told["speculative"]["types"] == ["mtp", "ngram"]
        assert sum(each["n"] for each in short.told["speculative"]["drafts"].values()) == short.timings["draft_n"] > 0

    ngram = await ask(live, stream, {"speculative": {"types": ["ngram-mod"], "n_max": 5}})
    assert ngram.text == usual.text
    assert ngram.told["mode"] == "ngram/full"
    assert set(ngram.told["speculative"]["drafts"]) <= {"ngram", "ngram-short"}


@pytest.mark.parametrize("ask", [chat, responses, messages])
async def test_a_request_chooses_its_cache(live: Live, ask: Callable[..., Awaitable[Answered]]) -> None:
    packed = await ask(live, ask is messages, {"kv": "k4v4"})
    assert (packed.told["kv"], packed.told["mode"]) == ("k4v4", "mtp+ngram/k4v4")
    assert packed.headers["x-specguard-mode"] == "mtp+ngram/k4v4"
    plain = await ask(live, False, {"kv": "k4v4", "speculative": {"enabled": False}})
    assert (plain.text, plain.told["mode"], plain.timings["draft_n"]) == (packed.text, "none/k4v4", 0)


async def test_a_codec_that_breaks_tool_calls_is_refused_with_tools_only(live: Live) -> None:
    answer = await live.post(CHAT, model=MODEL, kv="k3v3", tools=OPENAI_TOOLS, max_tokens=2)
    assert (answer.status, answer.json["error"]["param"]) == (400, "kv")
    message = answer.json["error"]["message"]
    assert message.startswith("kv: 'k3v3' keeps keys in less than 4 bits")
    assert "decode.force_low_bits" in message
    assert (await live.post(CHAT, model=MODEL, kv="k3v3", max_tokens=2)).json["specguard"]["kv"] == "k3v3"


async def test_clients_see_the_refusal_as_their_own_error(live: Live) -> None:
    with pytest.raises(openai.BadRequestError, match="did you mean 'ngram'") as refused:
        await chat(live, True, {"speculative": {"types": "ngramm"}})
    assert refused.value.param == "speculative.types"
    with pytest.raises(anthropic.BadRequestError, match="kv: 'k9' is unknown"):
        await messages(live, True, {"kv": "k9"})
    with pytest.raises(openai.BadRequestError, match=r"speculative.n_max: "):
        await responses(live, True, {"speculative": {"n_max": -1}})


async def test_trust_holds_for_what_a_request_chooses() -> None:
    async with _serving(trust={"ceiling_tokens": 8}) as live:
        answer = await chat(live, False, {"speculative": {"types": "ngram"}, "kv": "k8v8"})
        assert answer.told["mode"] == "plain"
        assert "trusted up to 8 tokens" in answer.headers["x-specguard-mode-reason"]


async def test_a_server_may_keep_the_choice_to_itself() -> None:
    async with serving("fine", decode={"per_request": False}) as live:
        answer = await live.post(CHAT, kv="full")
        assert (answer.status, answer.json["error"]["param"]) == (403, "kv")
        assert "decode.per_request" in answer.json["error"]["message"]
        assert (await live.post(CHAT)).status == 200
