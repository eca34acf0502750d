"""Failures of other people's compressed caches, planted where kernels read: the same checks see them there.

What writers do wrong does not depend on who reads, and stays with test_codec_mutants.py; here are readers' faults and
those of what is handed to them. A kernel that raises falls back to operators in a server; here it fails the test, so
that a broken fault is not taken for a caught one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.attention import attend
from engine.compressed import CompressedCache
from engine.kernels.switch import Kernels
from engine.model import Model
from engine.softmax import Parts
from tests.engine import test_codec_mutants
from tests.engine.coded import DIM, HEADS, Rows, dense, drawn, expected, layout
from tests.engine.readers import reader
from tests.engine.test_codec_mutants import (
    check_lossless,
    check_reader,
    drafts_coded_for_good,
    edge_from_the_present_length,
)

Check = Callable[[Model], None]
Mutant = Callable[[pytest.MonkeyPatch], None]
SLOW = pytest.mark.slow


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Codecs of the caches that kernels have read."""
    reader("triton", monkeypatch)
    from engine.kernels import attend as kernel

    whole, seen = kernel.code_parts, []

    def noted(turned: Any, shift: Any, edges: Any, cache: CompressedCache, *rest: Any) -> Parts:
        parts = whole(turned, shift, edges, cache, *rest)
        seen.append(cache.codec)
        return parts

    def refused(self: Kernels, why: str) -> None:
        raise RuntimeError(why)

    monkeypatch.setattr(kernel, "code_parts", noted)
    monkeypatch.setattr(Kernels, "switch_off", refused)
    return seen


def check_rows_in_blocks(model: Model) -> None:
    """The lossless check in small: rows alone and before wrong drafts, across the first edge, with the same bits."""
    rows, wrong = drawn(80), drawn(80, seed=5)
    queries = torch.randn(80, 2 * HEADS, DIM, generator=torch.Generator().manual_seed(4))
    alone, blocks = CompressedCache(layout()), CompressedCache(layout())
    for cache in (alone, blocks):
        rows.fill(cache, 60)
    single = []
    for at in range(60, 70):
        rows.write(alone, at, at + 1, clear=7)
        single.append(attend(queries[at : at + 8], alone, at, at + 8)[0])
        alone.settle(at + 1)
    at = 60
    for right in (2, 1, 3, 4):
        mixed = Rows(rows.keys.clone(), rows.values.clone())
        mixed.keys[at + right :], mixed.values[at + right :] = wrong.keys[at + right :], wrong.values[at + right :]
        mixed.write(blocks, at, at + 8)
        out = attend(queries[at : at + 8], blocks, at, at + 8)
        for index in range(right):
            assert torch.equal(out[index], single[at + index - 60])
        blocks.settle(at + right)
        at += right


def check_other_codecs(model: Model) -> None:
    """Keys and values of other widths, against an independent reading of what is stored."""
    rows = drawn(140, bias=2.0)
    q = torch.randn(8, 2 * HEADS, DIM, generator=torch.Generator().manual_seed(6))
    for codec in ("k8v4", "k4v2"):
        cache = CompressedCache(layout(codec))
        rows.fill(cache, 130)
        rows.write(cache, 130, 138)
        out = attend(q, cache, 130, 138)
        torch.testing.assert_close(out[0].double(), expected(q[0], *dense(cache, rows, 130)), atol=3e-5, rtol=1e-4)


def around(patch: pytest.MonkeyPatch, make: Callable[[Callable[..., Parts]], Callable[..., Parts]]) -> None:
    from engine.kernels import attend as kernel

    patch.setattr(kernel, "code_parts", make(kernel.code_parts))


def half_of_v_missing_alone(patch: pytest.MonkeyPatch) -> None:
    """The kernel for one row reads half of every value; the one for several rows is right (TheTom #99)."""
    write, alone = CompressedCache.write, [False]

    def noted(self: CompressedCache, position: int, keys: Any, values: Any, clear: int = 0) -> None:
        alone[0] = keys.shape[0] == 1
        write(self, position, keys, values, clear)

    def make(whole: Callable[..., Parts]) -> Callable[..., Parts]:
        def faulty(*arguments: Any) -> Parts:
            parts = whole(*arguments)
            if alone[0]:
                parts.mixed[..., parts.mixed.shape[-1] // 2 :] = 0
            return parts

        return faulty

    patch.setattr(CompressedCache, "write", noted)
    around(patch, make)


def rotation_skipped(patch: pytest.MonkeyPatch) -> None:
    """Queries as they are against rotated keys (llama.cpp #25382)."""

    def make(whole: Callable[..., Parts]) -> Callable[..., Parts]:
        return lambda turned, shift, edges, cache, *rest: whole(
            turned @ cache.layout.keys.turn.T, shift, edges, cache, *rest
        )

    around(patch, make)


def keys_scaled_up(patch: pytest.MonkeyPatch) -> None:
    """Scores five per cent too large: keys that a kernel reads with another scale than was stored."""

    def make(whole: Callable[..., Parts]) -> Callable[..., Parts]:
        return lambda turned, *rest: whole(turned * 1.05, *rest)

    around(patch, make)


def centring_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The constant that centring took from the keys is not added back; raw rows beside the codes then outweigh them."""

    def make(whole: Callable[..., Parts]) -> Callable[..., Parts]:
        return lambda turned, shift, *rest: whole(turned, shift * 0, *rest)

    around(patch, make)


def planes_in_another_order(patch: pytest.MonkeyPatch) -> None:
    """The kernel expects high nibbles first: each byte's two coordinates change places."""

    def make(whole: Callable[..., Parts]) -> Callable[..., Parts]:
        return lambda turned, *rest: whole(turned.roll(turned.shape[-1] // 2, -1), *rest)

    around(patch, make)


def codec_flag_ignored(patch: pytest.MonkeyPatch) -> None:
    """Keys are read with the bits of values, whatever the codec says (LLMKube #601)."""
    from engine.kernels import attend as kernel

    whole = kernel.sizes

    def faulty(*arguments: Any) -> dict[str, Any]:
        found = whole(*arguments)
        return found | {name: found[name.replace("KEY", "VALUE")] for name in found if name.startswith("KEY")}

    patch.setattr(kernel, "sizes", faulty)


def drafts_seen_as_codes(patch: pytest.MonkeyPatch) -> None:
    """Edges are not looked at: every row reads all codes there are, those of its own block included."""

    def make(whole: Callable[..., Parts]) -> Callable[..., Parts]:
        return lambda turned, shift, edges, cache, *rest: whole(
            turned, shift, torch.full_like(edges, cache.pending), cache, *rest
        )

    around(patch, make)


QUICK: dict[Mutant, tuple[Check, ...]] = {
    half_of_v_missing_alone: (check_rows_in_blocks, check_reader),
    rotation_skipped: (check_reader,),
    keys_scaled_up: (check_reader,),
    centring_forgotten: (check_other_codecs,),
    planes_in_another_order: (check_reader,),
    codec_flag_ignored: (check_other_codecs,),
    drafts_seen_as_codes: (check_rows_in_blocks,),
    drafts_coded_for_good: (check_rows_in_blocks,),
    edge_from_the_present_length: (check_rows_in_blocks,),
}
WHOLE: tuple[Mutant, ...] = (half_of_v_missing_alone, drafts_coded_for_good, edge_from_the_present_length)
"""Those that the whole model's lossless check sees on kernels too, at a shorter context: across the edge at 64."""


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check at 250 tokens takes minutes in the interpreter, and the first edge is as good as the fourth."""
    monkeypatch.setattr(test_codec_mutants, "CONTEXT", 60)


@pytest.mark.parametrize("check", [check_reader, check_rows_in_blocks, check_other_codecs], ids=lambda c: c.__name__)
def test_the_checks_pass_on_sound_kernels(check: Check, tiny_folder: Path, launches: list[str]) -> None:
    check(Model.load(tiny_folder))
    assert launches


@pytest.mark.parametrize("mutant", QUICK, ids=lambda mutant: mutant.__name__)
def test_every_planted_failure_is_caught(
    mutant: Mutant, tiny_folder: Path, launches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    for check in QUICK[mutant]:
        launches.clear()
        with pytest.raises(AssertionError):
            check(Model.load(tiny_folder))
        assert launches, "operators have read, and the fault was not in their place"


@SLOW
@pytest.mark.usefixtures("short")
def test_a_whole_model_is_lossless_on_kernels(tiny_folder: Path, launches: list[str]) -> None:
    check_lossless(Model.load(tiny_folder))
    assert launches


@SLOW
@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("mutant", WHOLE, ids=lambda mutant: mutant.__name__)
def test_a_whole_model_shows_it(
    mutant: Mutant, tiny_folder: Path, launches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        check_lossless(Model.load(tiny_folder))
    assert launches
