"""Qualification: what is trusted, what is refused and why, and that a server goes by the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policies.modes import DecodeMode
from policies.qualification import parse
from proxy.backends.base import Backend
from proxy.bench.pack.figures import Trial, figures
from proxy.bench.pack.lanes import Opening, builtin, elsewhere
from proxy.bench.pack.run import Progress
from proxy.bench.pack.tasks import shipped
from proxy.configuration.config import Config, ConfigProblem
from proxy.conversation import ChatRequest
from proxy.trust.qualify import Findings, _fallen, edges, qualify
from tests.proxy.bench.pack.played import agent, backend, edit, opening
from tests.proxy.live import CHAT, serving
from tests.proxy.scripted import Script, ScriptedBackend

FAST = "mtp+ngram/full"
FORGETFUL = Config.model_validate({"model": {"kept_prefixes": 0}})
"""The scripted backend keeps none."""


def length(request: ChatRequest) -> int:
    return sum(len(message.text) for message in request.messages)


async def judged(fast: Callable[[ChatRequest], str | None] = lambda _: None, *modes: str) -> Findings:
    return await found_by(opening(fast, FORGETFUL), *(modes or (FAST,)))


async def found_by(opening: Opening, *modes: str) -> Findings:
    return await qualify(opening, shipped(), modes, 2, Progress(), Findings())


def test_buckets_double_up_to_the_window() -> None:
    assert edges(4096) == [1024, 2048, 4096] and edges(5000) == [1024, 2048, 4096, 5000]
    assert edges(1024) == [1024] and edges(500) == [500]


@pytest.mark.parametrize(("good", "base", "fallen"), [(5, 1.0, False), (4, 1.0, True), (4, 0.8, False), (0, 0.0, True)])
def test_the_cliff_is_below_half_of_what_is_managed_without_context(good: int, base: float, fallen: bool) -> None:
    trials = [Trial("t", [], 1.0, good=number < good) for number in range(10)]
    assert _fallen(figures("plain", "far", trials), base) is fallen


async def test_a_sound_mode_is_trusted_and_a_server_uses_it(tmp_path: Path) -> None:
    found = await judged()
    made = parse(found.file().model_dump_json())
    assert [bucket.up_to_tokens for bucket in made.modes[0].buckets] == [1024, 2048, 4096]
    assert all(bucket.trusted for bucket in made.modes[0].buckets), made.modes[0].buckets
    assert (made.model, made.fingerprint, made.tool_format) == ("scripted", "sha256:scripted", "qwen_xml")
    assert {"specguard", "python"} <= set(made.versions)

    file = tmp_path / "q.json"
    file.write_text(made.model_dump_json())
    trust = {"qualification": str(file)}
    async with serving(backend(), folder=tmp_path, trust=trust) as live:
        assert (await live.post(CHAT)).headers["x-specguard-mode"] == FAST
        other = await live.post(CHAT, speculative={"types": ["ngram"]})
        assert other.headers["x-specguard-mode"] == "plain", "it was not qualified"
        assert "ngram/full was not qualified" in other.headers["x-specguard-mode-reason"]
    changed = backend()
    changed.info = type(changed.info)("scripted", "sha256:other", 4096)
    async with serving(changed, folder=tmp_path / "..", trust=trust) as live:
        ready = (await live.ask("GET", "/ready")).json["trust"]
        assert "it is for fingerprint sha256:scripted" in ready["note"] and ready["qualified"] == "configured"


async def test_a_refused_mode_starts_in_plain(tmp_path: Path) -> None:
    def wrong(request: ChatRequest) -> str | None:
        task = next((each for each in shipped().tasks if each.output in request.messages[-3].text), None)
        return edit(task, wrong=True) if task is not None and "<function=edit_file>" in agent(request) else None

    found = await judged(lambda request: wrong(request) if len(request.messages) > 3 else None)
    first, second, *_ = found.modes[0].buckets
    assert not first.trusted and first.why.startswith("patch generation: 0 of 1 pass, 1 of 1 in plain")
    assert not second.trusted and second.why == "not measured: it is refused at 1024 tokens"
    file = tmp_path / "q.json"
    file.write_text(found.file().model_dump_json())
    async with serving(backend(), folder=tmp_path, trust={"qualification": str(file)}) as live:
        answer = await live.post(CHAT)
        assert answer.headers["x-specguard-mode"] == "plain"
        assert "patch generation" in answer.headers["x-specguard-mode-reason"]


async def test_what_breaks_far_out_is_trusted_before_it() -> None:
    found = await judged(lambda request: "Something else." if length(request) > 6000 else None)
    trusted = [bucket.trusted for bucket in found.modes[0].buckets]
    assert trusted == sorted(trusted, reverse=True) and trusted[0] and not trusted[-1]
    why = next(bucket.why for bucket in found.modes[0].buckets if not bucket.trusted)
    assert why.startswith("canaries at ") and "differs from plain" in why


async def test_nothing_is_trusted_where_plain_decoding_fails_itself() -> None:
    def build(_: Config) -> Backend:
        return ScriptedBackend(
            answer=lambda request: Script("I give up." if length(request) > 5000 else agent(request)), window=4096
        )

    found = await found_by(builtin(FORGETFUL, build=build), FAST)
    refused = next(bucket for bucket in found.modes[0].buckets if not bucket.trusted)
    assert refused.up_to_tokens > 1024 and found.modes[0].buckets[0].trusted
    assert refused.why.startswith("beyond the context cliff: of the repairs behind")


async def test_drafts_that_are_never_right_gain_nothing() -> None:
    def build(_: Config) -> Backend:
        made = ScriptedBackend(answer=lambda request: Script(agent(request), width=1), window=4096)
        return Undrafted(made)

    found = await found_by(builtin(FORGETFUL, build=build), FAST)
    assert "not one of" in found.modes[0].buckets[0].why


class Undrafted:
    """Drafts three tokens in each step, and none is accepted."""

    def __init__(self, inner: ScriptedBackend) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def generate(self, request: ChatRequest, mode: DecodeMode) -> Any:
        from dataclasses import replace

        generation: Any = await self._inner.generate(request, mode)
        step = generation.next

        async def following(waits: Any = None) -> Any:
            delta = await step()
            drafted = 3 if mode.speculates else 0
            return delta and replace(delta, step=replace(delta.step, drafted=drafted, accepted=0, source="mtp"))

        generation.next = following
        return generation


async def test_a_mode_that_the_model_lacks_is_left_out() -> None:
    found = await judged(lambda _: None, "mtp/k8v8", FAST)
    assert [each.mode for each in found.modes] == [FAST] and "k8v8" in found.absent["mtp/k8v8"]
    with pytest.raises(ConfigProblem, match="k8v8"):
        await judged(lambda _: None, "mtp/k8v8")


async def test_a_server_elsewhere_cannot_be_qualified() -> None:
    async with serving(backend()) as live:
        with pytest.raises(ConfigProblem, match="only a server in this process"):
            await found_by(elsewhere(live.base), FAST)


async def test_a_mode_that_was_interrupted_is_left_out() -> None:
    import asyncio

    class Stops(Progress):
        def begins(self, what: str, steps: int) -> None:
            if what.startswith("ngram/full: repair"):
                task = asyncio.current_task()
                assert task is not None
                task.cancel()

    asked = qualify(opening(config=FORGETFUL), shipped(), (FAST, "ngram/full"), 1, Stops(), Findings())
    found = await asyncio.create_task(asked)  # type: ignore[arg-type]
    assert found.stopped and [judged.mode for judged in found.modes] == [FAST]
