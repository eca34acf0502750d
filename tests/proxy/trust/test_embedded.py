"""Breakers over the real engine: a planted fault opens one, canaries keep it open while the fault is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from examples.agent import protocol
from examples.embedded_model.tasks import make_task
from policies.breaker import Key
from policies.modes import DecodeMode
from proxy.backends.builtin import BuiltinBackend
from proxy.conversation import ChatRequest
from proxy.trust import canary_prompts
from proxy.trust.canaries import Canaries, CanarySettings
from proxy.trust.keeper import TrustKeeper
from proxy.trust.store import TrustStore
from tests.proxy.live import CHAT, Answer, serving

TASK = make_task(3, held_out=True)
OPENING = protocol.first_message(list(TASK.files), TASK.test_output)
ASKS: dict[str, Any] = {
    "model": "specguard-embedded",
    "messages": [{"role": "system", "content": protocol.SYSTEM_PROMPT}, {"role": "user", "content": OPENING}],
    "tools": protocol.TOOLS,
    "max_tokens": 80,
}
STAYS: dict[str, Any] = {"cool_down_s": 1000.0}
SOON: dict[str, Any] = {"cool_down_s": 0.01, "most_cool_down_s": 0.02, "canary_quiet_s": 0.0}


@dataclass
class Spied(BuiltinBackend):
    """The engine, and what it was asked for: (mode, cached tokens) of each generation."""

    plant: str | None = None
    every: int = 16
    seen: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(plant=self.plant, audit_every=self.every)

    async def generate(self, request: ChatRequest, mode: DecodeMode) -> Any:
        generation = await super().generate(request, mode)
        self.seen.append((str(mode), generation.cached_tokens))
        return generation


def _said(answer: Answer) -> Any:
    """Text and calls, without the ids that are drawn anew."""
    message = answer.json["choices"][0]["message"]
    return message["content"], [call["function"] for call in message.get("tool_calls", [])]


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(6000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


async def test_a_planted_fault_opens_and_its_removal_heals(tmp_path: Path) -> None:
    faulty: Any = Spied("verify-ignores-cache", 1)
    async with serving(faulty, folder=tmp_path, breaker=STAYS) as live:
        first = await live.post(CHAT, **ASKS)
        assert first.headers["x-specguard-mode"] == "mtp+ngram/full" and first.json["timings"]["draft_n"]
        incidents = await live.incidents()
        assert {record.opened["detector"] for record in incidents} == {"drift.audit"}
        second = await live.post(CHAT, **ASKS)
        assert second.headers["x-specguard-mode"] == "plain"
        assert second.json["timings"]["draft_n"] == 0, "plain from its first token"
        assert _said(second) == _said(first), "and what the first one was healed to"
        assert len(await live.incidents()) == len(incidents)
        body = (await live.ask("GET", "/metrics")).body.decode()
        assert 'specguard_breaker_state{bucket="0-1k",mode="mtp+ngram/full"} 2.0' in body
        assert 'specguard_memory_bytes{part="weights"}' in body

    still: Any = Spied("verify-ignores-cache", 1)
    async with serving(still, folder=tmp_path, breaker=SOON) as live:
        assert live.service.keeper is not None
        keeper = live.service.keeper
        await until(lambda: any(record.confirmed for record in keeper.records.values()))
        assert {mode for mode, _ in still.seen} <= {"mtp+ngram/full", "plain"}

    sound: Any = Spied()
    async with serving(sound, folder=tmp_path, breaker=SOON) as live:
        assert live.service.keeper is not None
        keeper = live.service.keeper
        await until(lambda: keeper.records and all(record.state == "closed" for record in keeper.records.values()))
        assert any(cached for mode, cached in sound.seen if mode == "mtp+ngram/full"), "answered from a kept prefix"
        assert sound.engine.memory().kept == 0, "no prefix of a canary is kept"
        healed = await live.post(CHAT, **ASKS)
        assert healed.headers["x-specguard-mode"] == "mtp+ngram/full"
        assert _said(healed) == _said(first)

    prompt = healed.json["usage"]["prompt_tokens"]
    again: Any = Spied()
    async with serving(again, folder=tmp_path, trust={"ceiling_tokens": prompt + 25}) as live:
        grown = await live.post(CHAT, **ASKS)
        assert grown.headers["x-specguard-mode"] == "mtp+ngram/full"
        assert 0 < grown.json["timings"]["draft_n"] < healed.json["timings"]["draft_n"], "it went on in plain"
        assert _said(grown) == _said(first)


@pytest.mark.parametrize(
    ("plant", "mode", "context", "outcome"),
    [
        (None, "ngram/k8v8", 400, "passed"),
        ("argmax-acceptance", "mtp+ngram/full", 400, "failed"),
        pytest.param("nan-at-position", "none/k8v8", 400, "failed", marks=pytest.mark.slow),
    ],
)
async def test_canaries_judge_the_real_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: str | None, mode: str, context: int, outcome: str
) -> None:
    monkeypatch.setattr(canary_prompts, "ANSWER_TOKENS", 20)
    backend = Spied(plant)
    await backend.start()
    try:
        keeper, idle = TrustKeeper(TrustStore(tmp_path / "trust.json")), asyncio.Event()
        canaries = Canaries(keeper, backend, idle, CanarySettings())
        key = Key(backend.info.fingerprint, mode, 0, backend.info.tool_format)
        _, tokens = await canaries.fitted(context, 1)
        assert abs(tokens - context) < 64
        verdict = await canaries.judge(key, context)
        assert verdict[0] == outcome, verdict
    finally:
        await backend.stop()
