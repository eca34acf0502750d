"""The lossless meter: what it looks at, when, how much of it, and that a client comes first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from proxy.conversation import ChatRequest, Demands, Message, Sampling, Tool
from proxy.lanes.asking import Asker, Target
from proxy.lanes.heard import hear
from proxy.lanes.meter import HOUR_S, LosslessMeter, MeterSettings, Turn, drawn_how
from proxy.lanes.trials import body_for
from tests.proxy.lanes.upstreams_of import able, answer, at, serving
from tests.upstreams.lanes import Lane
from tests.upstreams.replies import Reply, Text
from tests.upstreams.server import Upstream

REQUEST = ChatRequest("openai.chat", "m", (Message("user", "go"),))
ALWAYS = MeterSettings(share=1.0, quiet_s=0.0)


def meter(target: Target, settings: MeterSettings = ALWAYS, **options: Any) -> LosslessMeter:
    idle = asyncio.Event()
    idle.set()
    return LosslessMeter(target, "vllm", "m", idle, settings, chance=lambda: 0.5, **options)


@asynccontextmanager
async def running(made: LosslessMeter) -> AsyncIterator[None]:
    task = asyncio.create_task(made.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(true: Any) -> None:
    async with asyncio.timeout(20):
        while True:
            if true():
                return
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("request_", "drawn"),
    [
        (REQUEST, "greedy"),
        (ChatRequest("", "m", (), sampling=Sampling(temperature=0.7)), "sampled"),
        (ChatRequest("", "m", (), sampling=Sampling(presence_penalty=0.5)), None),
        (ChatRequest("", "m", (), sampling=Sampling(repetition_penalty=1.1)), None),
        (ChatRequest("", "m", (), sampling=Sampling(logit_bias=((5, 1.0),))), None),
        (ChatRequest("", "m", (), demands=Demands(must_call=True)), None),
        (ChatRequest("", "m", (), tools=(Tool("ls", strict=True),)), None),
        (ChatRequest("", "m", (), tools=(Tool("ls"),)), "greedy"),
    ],
)
def test_turns_whose_tokens_the_model_alone_has_chosen(request_: ChatRequest, drawn: str | None) -> None:
    assert drawn_how(request_) == drawn


async def said_by(up: Upstream) -> tuple[list[int], list[int]]:
    async with Asker(at(up)) as asker:
        heard = await hear(asker, body_for("m", "Repeat the fox.", 200, return_token_ids=True))
    return heard.prompt_ids, heard.token_ids


@pytest.mark.parametrize(
    ("fast", "inside"),
    [
        (able(width=4, speculation="mtp"), 1.0),
        (Lane(Reply((Text("the quick brown fox the the the the the the the the the"),))), 0.0),
    ],
    ids=["same", "lying"],
)
async def test_a_fast_lane_is_held_against_the_plain_one(fast: Lane, inside: float) -> None:
    plain = Upstream("vllm", {"m": Lane(answer)})
    async with Upstream("vllm", {"m": fast}).running() as up, plain.running():
        prompt, tokens = await said_by(up)
        await said_by(plain)  # it knows the prompt by itself
        made = meter(at(plain))
        async with running(made):
            assert made.finished(REQUEST, "fast", prompt, tokens)
            await until(lambda: made.figures)
    (row,) = made.reads()["lanes"]["fast"]
    assert (row["bucket"], row["drawn"], row["tokens"]) == ("0-1k", "greedy", len(tokens))
    assert row["inside"] == 1.0 if inside else row["inside"] < 1.0
    assert made.problem == ""


async def test_a_share_of_turns_is_looked_at() -> None:
    plain = Target("plain", "http://127.0.0.1:9")
    assert meter(plain, MeterSettings(share=0.6)).chooses(REQUEST)
    for share in (0.4, 0.0):
        made = meter(plain, MeterSettings(share=share))
        assert not made.chooses(REQUEST) and made.left_out == 0
    made = meter(plain)
    assert not made.chooses(ChatRequest("", "m", (), demands=Demands(must_call=True))) and made.left_out == 1


@pytest.mark.parametrize(("prompt", "tokens"), [([], [1]), ([1], []), ([1] * 90, [1] * 11), ([1], [1, 1 << 31])])
async def test_turns_that_cannot_be_scored_are_left_out(prompt: list[int], tokens: list[int]) -> None:
    made = meter(Target("plain", "http://127.0.0.1:9"), MeterSettings(share=1.0, most_tokens=100))
    assert not made.finished(REQUEST, "fast", prompt, tokens) and made.left_out == 1


async def test_few_turns_wait_and_the_newest_ones() -> None:
    made = meter(Target("plain", "http://127.0.0.1:9"), MeterSettings(share=1.0, waiting=2))
    for token in range(5):
        assert made.finished(REQUEST, "fast", [1], [token])
    assert [turn.token_ids for turn in made._turns] == [(3,), (4,)] and made.left_out == 3


async def test_the_budget_is_per_hour() -> None:
    now = 0.0
    rows = {"choices": [{"prompt_logprobs": [None, {"2": {"logprob": -0.1}}]}]}
    async with serving(v1_completions=rows) as url:
        made = meter(Target("plain", url), MeterSettings(share=1.0, tokens_per_hour=5), clock=lambda: now)
        turn = Turn("fast", (1,), (2,), "greedy")
        assert [await made.look(turn) for _ in range(3)] == [True, True, False]
        now = HOUR_S + 1
        assert await made.look(turn)


async def test_nothing_is_scored_while_somebody_is_served() -> None:
    made = meter(Target("plain", "http://127.0.0.1:9"))
    made.idle.clear()
    async with running(made):
        made.finished(REQUEST, "fast", [1], [2])
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(made._turns) == 1
        made.idle.set()
        await until(lambda: not made._turns)


async def test_a_client_that_comes_ends_the_scoring_and_its_connection() -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()
        raise AssertionError

    async with serving(v1_completions=hang) as url:
        made = meter(Target("plain", url))
        async with running(made):
            made.finished(REQUEST, "fast", [1], [2])
            await asked.wait()
            await made.make_way()
            await asyncio.wait_for(gone.wait(), 20)
            assert made.left_out == 1 and not made.figures
    await made.make_way()  # nothing runs


async def test_a_server_that_scores_nothing_is_told_and_counts_for_nothing() -> None:
    async with serving(v1_completions={"choices": []}) as url:
        made = meter(Target("plain", url))
        assert not await made.look(Turn("fast", (1,), (2,), "greedy"))
    assert "no prompt_logprobs" in made.reads()["problem"] and not made.figures


async def test_what_a_server_repeats_of_a_prompt_is_shown_to_nobody() -> None:
    refused = web.json_response({"detail": [{"input": [151_643, 872]}]}, status=422)
    async with serving(v1_completions=refused) as url:
        made = meter(Target("plain", url))
        assert not await made.look(Turn("fast", (151_643,), (872,), "greedy"))
    assert made.problem == "/v1/completions answers 422"
