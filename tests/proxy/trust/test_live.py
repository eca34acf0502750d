"""Breakers, trust and metrics as a client of a running server sees them, also after it was killed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from proxy.trust.store import read
from tests.policies.test_qualification import changed
from tests.proxy.live import CHAT, MESSAGES, OPENAI_TOOLS, Answer, Live, serving
from tests.proxy.scripted import FAST, Script, ScriptedBackend, call_text, cut

PLAIN_TEXT = "All is well and the work is done."
BAD_CALL = call_text("nope", path="x")
LOOPING = "All is well and " + "so on and on " * 200
SICK, SOUND = Script(PLAIN_TEXT, fast=BAD_CALL), Script(PLAIN_TEXT)
PROVEN = Script(PLAIN_TEXT, fast="All is lost now.", audited="all")
STAYS: dict[str, Any] = {"cool_down_s": 1000.0}
SOON: dict[str, Any] = {"cool_down_s": 0.01, "most_cool_down_s": 0.02, "canary_quiet_s": 0.0}
NO_PREFIXES: dict[str, Any] = {"kept_prefixes": 0}


def engine(script: Script, exactness: Any = "distribution") -> ScriptedBackend:
    """distribution: what a comparison shows is likely, not certain."""
    backend = ScriptedBackend(script)
    backend.capabilities = replace(backend.capabilities, exactness=exactness)
    return backend


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise TimeoutError


async def open_breakers(live: Live) -> list[tuple[str, str, str]]:
    ready = (await live.ask("GET", "/ready")).json
    return [(each["mode"], each["bucket"], each["state"]) for each in ready["trust"]["breakers"]]


def text_of(answer: Answer) -> str:
    return str(answer.json["choices"][0]["message"]["content"])


async def test_three_likely_trips_and_the_next_request_starts_plain(tmp_path: Path) -> None:
    backend = engine(SICK)
    async with serving(backend, folder=tmp_path, breaker=STAYS) as live:
        for _ in range(3):
            answer = await live.post(CHAT)
            assert text_of(answer) == PLAIN_TEXT
            assert answer.headers["x-specguard-mode"] == str(FAST)
            assert "x-specguard-mode-reason" not in answer.headers
        assert [record.opened["detector"] for record in await live.incidents()] == ["tool.unknown"] * 3
        assert [record.closed["certainty"] for record in await live.incidents() if record.closed] == ["likely"] * 3
        assert await open_breakers(live) == [(str(FAST), "0-1k", "open")]
        for path in (CHAT, MESSAGES):
            answer = await live.post(path)
            assert answer.headers["x-specguard-mode"] == "plain"
            assert answer.headers["x-specguard-mode-reason"] == "the breaker mtp+ngram/full@0-1k is open"
            assert not backend.generations[-1].rewinds, "plain from its first token"
        assert len(await live.incidents()) == 3
        assert len(backend.generations) == 5, "no canary within its cool-down"

    # another server on the same store
    backend = engine(SICK)
    async with serving(backend, folder=tmp_path, breaker=STAYS) as live:
        assert (await live.post(CHAT)).headers["x-specguard-mode"] == "plain"
        assert not backend.generations[0].rewinds

    # the fault is there: canaries fail, the mode stays out
    async with serving(engine(SICK, "bitwise"), folder=tmp_path, breaker=SOON, model=NO_PREFIXES) as live:
        assert live.service.keeper is not None
        keeper = live.service.keeper
        await until(lambda: any(record.confirmed for record in keeper.records.values()))
        canary = (await live.ask("GET", "/ready")).json["canary"]
        assert canary.startswith("mtp+ngram/full@0-1k: failed")
        assert (await live.post(CHAT)).headers["x-specguard-mode"] == "plain"

    # the fault is gone: one canary passes, the mode is back
    async with serving(engine(SOUND), folder=tmp_path, breaker=SOON, model=NO_PREFIXES) as live:
        assert live.service.keeper is not None
        keeper = live.service.keeper
        await until(lambda: all(record.state == "closed" for record in keeper.records.values()))
        answer = await live.post(CHAT)
        assert (answer.headers["x-specguard-mode"], text_of(answer)) == (str(FAST), PLAIN_TEXT)
        assert not await live.incidents() or len(await live.incidents()) == 3, "canaries make no incidents"


async def test_one_proof_is_enough(tmp_path: Path) -> None:
    async with serving(engine(PROVEN, "bitwise"), folder=tmp_path, breaker=STAYS) as live:
        assert text_of(await live.post(CHAT)) == PLAIN_TEXT
        assert (await live.post(CHAT)).headers["x-specguard-mode"] == "plain"
        assert len(await live.incidents()) == 1


async def test_the_models_own_loops_open_nothing() -> None:
    async with serving(engine(Script(LOOPING), "bitwise"), breaker=STAYS) as live:
        for _ in range(4):
            await live.post(CHAT)
        assert {r.closed["culprit"] for r in await live.incidents() if r.closed} == {"model"}
        assert await open_breakers(live) == []
        assert (await live.post(CHAT)).headers["x-specguard-mode"] == str(FAST)


async def test_observing_changes_nothing() -> None:
    sick = engine(Script(PLAIN_TEXT, fast=LOOPING))
    async with serving(sick, breaker=STAYS, guard={"action": "observe"}, trust={"ceiling_tokens": 1}) as live:
        for _ in range(4):
            assert text_of(await live.post(CHAT)) == LOOPING
        assert (await live.post(CHAT)).headers["x-specguard-mode"] == str(FAST)
        assert await open_breakers(live) == []


async def test_a_client_that_asks_for_another_drafter_is_judged_by_that_one(tmp_path: Path) -> None:
    async with serving(engine(PROVEN, "bitwise"), folder=tmp_path, breaker=STAYS) as live:
        await live.post(CHAT)
        answer = await live.post(CHAT, speculative={"types": "none"})
        assert answer.headers["x-specguard-mode"] == "plain"
        assert "x-specguard-mode-reason" not in answer.headers, "that is what was asked for"


async def test_beyond_the_ceiling_responses_start_plain() -> None:
    async with serving("fine", trust={"ceiling_tokens": 20}) as live:
        assert (await live.post(CHAT)).headers["x-specguard-mode"] == str(FAST)
        long = [{"role": "user", "content": "word " * 30}]
        answer = await live.post(CHAT, messages=long)
        assert answer.headers["x-specguard-mode"] == "plain"
        reason = f"{FAST} is trusted up to 20 tokens (trust.ceiling_tokens is 20)"
        assert answer.headers["x-specguard-mode-reason"] == reason
        trusted = (await live.ask("GET", "/ready")).json["trust"]["trusted"]
        assert trusted[str(FAST)]["tokens"] == 20 and trusted["plain"]["tokens"] == 8192


@pytest.mark.parametrize("before", ["", "thought.</think>", "Here: "])
async def test_a_response_that_grows_beyond_the_ceiling_goes_on_in_plain(before: str) -> None:
    call = call_text("ls", path=" ".join(f"part{number}" for number in range(60)))
    plain = f"{before}{call}" if before else "".join(f"Line {number} is {number * 7} long. " for number in range(40))
    right = len(cut(plain)) // 2
    broken = Script(plain, fast="".join(cut(plain)[:right]) + " and then nonsense" * 3)
    async with serving(engine(broken, "bitwise"), trust={"ceiling_tokens": right}) as live:
        asked: dict[str, Any] = {"tools": OPENAI_TOOLS} if before else {}
        answer = await live.post(CHAT, **asked)
        assert answer.headers["x-specguard-mode"] == str(FAST)
        ((at, mode, rebuild),) = live.backend.generations[0].rewinds
        assert (mode, rebuild) == ("plain", "none") and right - 32 < at <= right
        assert not await live.incidents()
        message = answer.json["choices"][0]["message"]
        if before:
            assert json.loads(message["tool_calls"][0]["function"]["arguments"])["path"].endswith("part59")
        else:
            assert message["content"] == plain
        assert answer.json["usage"]["completion_tokens"] == len(cut(plain))
        assert answer.json["timings"]["draft_n"] > 0


async def test_a_qualification_file_is_read_and_its_words_reach_no_header_unchecked(tmp_path: Path) -> None:
    path = tmp_path / "qualified.json"
    buckets = [
        {"up_to_tokens": 10, "trusted": True},
        {"up_to_tokens": 8192, "trusted": False, "why": "neédle\r\nx-evil: 1"},
    ]
    rows = [{"drafter": FAST.drafter, "codec": FAST.codec, "buckets": buckets}]
    path.write_text(changed(fingerprint="sha256:scripted", modes=rows))
    async with serving("fine", trust={"qualification": str(path)}) as live:
        answer = await live.post(CHAT, messages=[{"role": "user", "content": "word " * 30}])
        assert answer.headers["x-specguard-mode"] == "plain"
        assert "ne?dle??x-evil: 1" in answer.headers["x-specguard-mode-reason"] and "x-evil" not in answer.headers


@pytest.mark.parametrize(("text", "word"), [("{", "is no JSON"), (None, "cannot be read (No such file")])
async def test_a_qualification_that_cannot_be_used_is_no_start(tmp_path: Path, text: str | None, word: str) -> None:
    path = tmp_path / "qualified.json"
    if text is not None:
        path.write_text(text)
    async with serving("fine", trust={"qualification": str(path)}) as live:
        ready = await live.ask("GET", "/ready")
        assert ready.status == 503 and word in ready.json["reason"] and "trust.qualification" in ready.json["reason"]


async def test_a_file_that_cannot_be_read_ends_no_server(tmp_path: Path) -> None:
    path = tmp_path / "incidents.trust.json"
    path.write_bytes(b"\x00garbage")
    async with serving("fine", folder=tmp_path) as live:
        assert (await live.post(CHAT)).headers["x-specguard-mode"] == str(FAST)
    assert [name for name in os.listdir(tmp_path) if "unreadable" in name]


async def test_a_client_interrupts_a_canary(tmp_path: Path) -> None:
    async with serving(engine(PROVEN, "bitwise"), folder=tmp_path, breaker=STAYS) as live:
        await live.post(CHAT)
    reached, blocked = asyncio.Event(), True

    async def pace() -> None:
        task = asyncio.current_task()
        if blocked and task is not None and task.get_name() == "canary":
            reached.set()
            await asyncio.Event().wait()

    backend = ScriptedBackend(SOUND, pace=pace)
    async with serving(backend, folder=tmp_path, breaker=SOON, model=NO_PREFIXES) as live:
        async with asyncio.timeout(30):
            await reached.wait()
            answer = await live.post(CHAT)
        assert answer.headers["x-specguard-mode"] == "plain" and text_of(answer) == PLAIN_TEXT
        assert backend.generations[0].closes
        blocked = False
        assert live.service.keeper is not None
        keeper = live.service.keeper
        await until(lambda: all(record.state == "closed" for record in keeper.records.values()))


SERVER = """
import sys
from proxy.configuration.config import Config
from proxy.server.serve import serve
from tests.proxy.trust.test_live import PROVEN, STAYS, engine
config = Config.model_validate({"server": {"port": 0}, "breaker": STAYS, "incidents": {"path": sys.argv[1]}})
sys.exit(serve(config, lambda _: engine(PROVEN, "bitwise")))
"""


async def test_a_killed_server_finds_its_breakers_open_again(tmp_path: Path) -> None:
    store = tmp_path / "incidents.sqlite"
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, str(store), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60), aiohttp.ClientSession() as http:
            found = None
            while found is None:
                line = (await process.stdout.readline()).decode()
                assert line, "the server ended"
                found = re.search(r"http://127\.0\.0\.1:\d+", line)
            body = {"model": "scripted", "messages": [{"role": "user", "content": "go"}]}
            async with http.post(f"{found[0]}{CHAT}", json=body) as response:
                assert (await response.json())["choices"][0]["message"]["content"] == PLAIN_TEXT
            path = tmp_path / "incidents.trust.json"
            await until(lambda: path.exists() and read(path))
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    with capture_logs() as logs:
        async with serving(engine(PROVEN, "bitwise"), folder=tmp_path, breaker=STAYS):
            assert "breaker.still_open" in [line["event"] for line in logs]
    async with serving(engine(PROVEN, "bitwise"), folder=tmp_path, breaker=STAYS) as live:
        assert await open_breakers(live) == [(str(FAST), "0-1k", "open")]
        assert (await live.post(CHAT)).headers["x-specguard-mode"] == "plain"


async def scraped(live: Live, **headers: str) -> dict[str, float]:
    answer = await live.ask("GET", "/metrics", **headers)
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}[{labels}]"] = sample.value
    return found


async def test_metrics_of_a_running_server() -> None:
    async with serving(engine(PROVEN, "bitwise"), breaker=STAYS) as live:
        await live.post(CHAT)
        streamed = await live.post(MESSAGES, stream=True)
        assert streamed.headers["x-specguard-mode"] == "plain"
        for number in range(40):
            assert (await live.post(CHAT, model=f"guess-{number}")).status == 404
        await live.post(CHAT, messages="nonsense")
        seen = await scraped(live)
    expected = {
        "specguard_requests_total[api=openai.chat,model=scripted,outcome=stop]": 1,
        "specguard_requests_total[api=anthropic.messages,model=scripted,outcome=stop]": 1,
        "specguard_requests_total[api=openai.chat,model=other,outcome=unknown_model]": 40,
        "specguard_refusals_total[kind=unknown_model]": 40,
        "specguard_refusals_total[kind=invalid_request]": 1,
        "specguard_incidents_total[action=rewind,detector=drift.audit,grade=fallback]": 1,
        "specguard_fallbacks_total[from=mtp+ngram/full,to=plain]": 1,
        "specguard_safer_starts_total[from=mtp+ngram/full,to=plain]": 1,
        "specguard_breaker_state[bucket=0-1k,mode=mtp+ngram/full]": 2,
        "specguard_engine_mode[mode=mtp+ngram/full]": 1,
        "specguard_trust_ceiling_tokens[mode=plain]": 8192,
        "specguard_ttft_seconds_count[api=openai.chat]": 1,
        "specguard_ttft_seconds_count[api=anthropic.messages]": 1,
        "specguard_in_flight_requests[]": 0,
        "specguard_ready[]": 1,
    }
    assert {name: seen.get(name) for name in expected} == expected
    assert seen["specguard_draft_tokens_total[drafter=mtp]"] >= 3
    assert not any("guess" in name for name in seen) and len(seen) < 300


async def test_metrics_are_under_the_same_rule_as_the_rest() -> None:
    async with serving("fine", server={"keys": ("secret",)}) as live:
        assert (await live.ask("GET", "/metrics")).status == 401
        assert await scraped(live, authorization="Bearer secret")
    async with serving("fine") as live:
        assert (await live.ask("GET", "/metrics", host="evil.example")).status == 403
        assert await scraped(live)
        assert "GET /metrics" in json.loads((await live.ask("GET", "/")).body)["endpoints"]


async def test_an_abandoned_response_is_counted() -> None:
    async def forever() -> None:
        await asyncio.sleep(0.002)

    backend = ScriptedBackend("word " * 20_000, pace=forever)
    async with serving(backend) as live:
        body = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": "go"}]}
        async with live.http.post(live.base + CHAT, json=body) as response:
            await response.content.read(10)
            assert (await scraped(live))["specguard_in_flight_requests[]"] == 1
        await live.idle()
        seen = await scraped(live)
        assert seen["specguard_requests_total[api=openai.chat,model=scripted,outcome=abandoned]"] == 1
