"""The page of `specguard bench pack` in a real browser, on a desk and on a phone, in light and in dark.

Pictures are kept in pytest's temporary folder, whose place is printed (`make test-browser`): look at them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from proxy.bench.pack.page import page
from proxy.bench.pack.report import report
from proxy.bench.pack.run import Measured, Plan, Progress, run
from proxy.bench.pack.tasks import shipped
from proxy.bench.pack.vram import Vram
from proxy.bench.pack.workloads import Size
from tests.browser.chromium import Page, browsing, found
from tests.proxy.bench.pack.played import opening

SCREENS = {"desk": (1280, 900), "phone": (390, 844)}
LEAST_PX, LEAST_CONTRAST, LEAST_SHAPE_CONTRAST = 12.0, 4.5, 3.0
"""WCAG 2.2 AA: 4.5 for text, 3 for shapes that carry meaning."""
MODES = ("plain", "ngram/full", "mtp/full", "mtp+ngram/full", "mtp/k8v8")
LONG = "sha256:" + "0123456789abcdef" * 6

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def program() -> str:
    if not (name := found()):
        pytest.skip("no Chromium on PATH: apt install chromium, or name one in SPECGUARD_BROWSER")
    return name


@pytest.fixture(scope="module")
def made(program: str) -> dict[str, Any]:
    """A report of all workloads and a sweep. One mode is absent and one breaks calls, so that there is more to tell."""

    def broken(_: Any) -> str:
        return "<tool_call>\n<function=nowhere>\n</function>\n</tool_call>"

    async def measured_both() -> tuple[Measured, Measured]:
        worse = replace(plan, modes=("mtp+ngram/full",), lengths=())
        return await run(opening(), shipped(), plan, Progress()), await run(
            opening(broken), shipped(), worse, Progress()
        )

    plan = Plan(MODES, Size(repairs=3, far=1, times=3, few=2), lengths=(512, 600, 1024, 2048, 3072), each=2, rounds=2)
    measured, worse = asyncio.run(measured_both())
    measured.modes["mtp+ngram/full"] = worse.modes["mtp+ngram/full"]
    measured.vram = {mode: Vram(412_876_800, 536_870_912) for mode in measured.modes}
    measured.about["fingerprint"] = LONG
    plain: dict[str, Any] = json.loads(json.dumps(report(measured, plan, "shipped").plain()))
    return plain


@pytest.fixture
async def opened(program: str, tmp_path: Path) -> AsyncIterator[Page]:
    async with browsing(program, tmp_path) as page:
        yield page


@pytest.fixture
async def file(made: dict[str, Any], tmp_path: Path) -> Path:
    file = tmp_path / "page.html"
    file.write_text(page(made), encoding="utf-8")
    return file


LOOKS = Path(__file__).with_name("looks.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
async def test_it_can_be_read(opened: Page, file: Path, screen: str, dark: bool) -> None:
    await opened.show(file.as_uri(), *SCREENS[screen], dark)
    looks = await opened.ask(LOOKS)
    picture = file.with_name(f"{screen}-{'dark' if dark else 'light'}.png")
    picture.write_bytes(await opened.picture())
    print(f"\nlook at {picture}")
    assert picture.stat().st_size > 20_000

    assert opened.requests == [file.as_uri()], "nothing but the page itself is asked for"
    assert opened.complaints == []
    assert looks["screen"] == SCREENS[screen][0] and looks["width"] <= looks["screen"], looks["beyond"]
    assert looks["beyond"] == []
    assert screen == "phone" or not any(looks["scrolled"]), "a table that fits needs no moving"
    assert (looks["paper"] == "rgb(255, 255, 255)") is not dark

    assert len(looks["texts"]) > 100
    assert [each for each in looks["texts"] if each["size"] < LEAST_PX] == []
    assert [each for each in looks["texts"] if each["contrast"] < LEAST_CONTRAST] == []
    assert len(looks["charts"]) > 20 and len(looks["lines"]) > 20
    assert [each for each in looks["charts"] if each["width"] < 80 or each["height"] < 8] == []
    curves = [each for each in looks["charts"] if each["height"] > 100]
    assert len(curves) == 4
    assert [each for each in looks["lines"] + looks["bars"] if each["contrast"] < LEAST_SHAPE_CONTRAST] == []
    assert [each for each in looks["lines"] if each["width"] <= 0] == []
    for bar in looks["bars"]:
        assert bar["width"] == pytest.approx(bar["value"] * bar["whole"], abs=1)
    written = [each for each in looks["texts"] if each["chart"]]
    assert [(a["text"], b["text"]) for a, b in combinations(written, 2) if _over(a, b)] == []
    for curve in curves:
        inside = [each for each in written if _over(each, curve)]
        assert len(inside) >= 5 and not [each for each in inside if not _within(each, curve)]


def _over(one: dict[str, float], other: dict[str, float]) -> bool:
    across = min(one["right"], other["right"]) - max(one["left"], other["left"])
    down = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
    return across > 0.5 and down > 0.5


def _within(one: dict[str, float], other: dict[str, float]) -> bool:
    return (
        one["left"] >= other["left"] - 1 and one["right"] <= other["right"] + 1 and one["bottom"] <= other["bottom"] + 1
    )
