"""Lanes: a server of its own for each mode, a URL as it is, and nothing left behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from aiohttp import web

from proxy.bench.pack import lanes
from proxy.bench.pack.lanes import SERVED, elsewhere, fit_together, opened, require_some
from proxy.configuration.config import Config, ConfigProblem
from tests.proxy.bench.pack.played import backend, opening
from tests.proxy.live import serving


def left_behind() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("specguard-pack-*"))


ASKED = [{"role": "user", "content": "go"}]


async def test_a_server_for_a_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # others may run beside
    async with opening()("mtp+ngram/full") as lane:
        assert (lane.mode, lane.model, lane.window, lane.about["exactness"]) == (
            "mtp+ngram/full",
            "scripted",
            4096,
            "bitwise",
        )
        answer = await lane.client.ask(ASKED, [])
        assert answer.began_in == "mtp+ngram/full" and not answer.failed and answer.ids
        assert lane.service is not None and not lane.service.config.replay.automatic
        assert await lane.detectors() == {}
    assert not left_behind()


async def test_incidents_are_named() -> None:
    async with opening(lambda _: "so on and on " * 200)("mtp+ngram/full") as lane:
        answer = await lane.client.ask(ASKED, [])
        told = await lane.detectors()
        assert [told[id] for id in answer.incidents] == ["loop.period"]
        assert answer.fell_back and answer.mode == "plain"


async def test_a_mode_that_the_model_lacks() -> None:
    with pytest.raises(ConfigProblem, match="codec 'k8v8' does not fit"):
        async with opening(config=Config())("mtp/k8v8"):
            pass


async def test_a_server_that_runs_already() -> None:
    async with serving(backend()) as live:
        async with elsewhere(live.base + "/v1")(SERVED) as lane:
            assert (lane.model, lane.fields, lane.service) == ("scripted", {}, None)
            assert (await lane.client.ask(ASKED, [], **lane.fields)).began_in == "mtp+ngram/full"
        for mode in ("plain", "ngram/full"):
            async with elsewhere(live.base)(mode) as lane:
                assert (await lane.client.ask(ASKED, [], **lane.fields)).began_in == mode
        with pytest.raises(ConfigProblem, match=r"--served-model: .* has scripted, not 'other'"):
            async with elsewhere(live.base, model="other")(SERVED):
                pass


async def test_nobody_there() -> None:
    with pytest.raises(ConfigProblem, match=r"--target: http://127\.0\.0\.1:9 does not list its models"):
        async with elsewhere("http://127.0.0.1:9")(SERVED):
            pass


async def test_lanes_side_by_side_without_those_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    absent: dict[str, str] = {}
    async with opened(opening(), ["plain", "mtp/k8v8", "ngram/full"], absent) as found:
        assert [lane.mode for lane in found] == ["plain", "ngram/full"]
        assert [(await lane.client.ask(ASKED, [])).began_in for lane in found] == ["plain", "ngram/full"]
    assert list(absent) == ["mtp/k8v8"] and not left_behind()
    require_some(found, absent)
    require_some([], {})
    with pytest.raises(ConfigProblem, match="k8v8"):
        require_some([], absent)


def test_engines_stand_side_by_side_where_they_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"0" * 1000)
    config = Config.model_validate({"model": {"path": str(tmp_path)}})
    monkeypatch.setattr(lanes, "_free", lambda: 2 * 4 * 1000 * 6.0)
    assert fit_together(config, 6) and not fit_together(config, 7)
    assert fit_together(Config(), 6), "the embedded model is small"
    for device in ("cuda", "mps"):
        assert not fit_together(Config.model_validate({"model": {"device": device}}), 1)


def test_free_memory_is_told_or_without_limit() -> None:
    assert lanes._free() > 1 << 20


async def test_a_server_that_lists_models_and_answers_nothing_is_refused_at_once() -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.path == "/v1/models":
            return web.json_response({"data": [{"id": "\x1b[31mred"}, {"id": "m"}]})
        return web.json_response({"error": {"message": "no \x1b[31mroom"}}, status=503)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        with pytest.raises(ConfigProblem, match=r"gives no answer in mode served: status 503: no  \[31mroom"):
            async with elsewhere(url)("served"):
                pass
        with pytest.raises(ConfigProblem, match=f"--served-model: {url} has m, not 'x'"):
            async with elsewhere(url, model="x")("served"):
                pass
    finally:
        await runner.cleanup()
