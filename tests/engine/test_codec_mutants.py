"""Failures of other people's compressed caches, planted one by one: each is caught by a check of this suite.

The checks are those of the tests beside this file, small; `test_the_checks_pass_without_a_fault` runs them as they are.
Sources: vLLM #40831 and kin, llama.cpp #25725, TheTom #99, LLMKube #601, omlx #1925, issue 4.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine import code_attention
from engine.attention import attend
from engine.codecs import packing, quantiser
from engine.codecs.quantiser import Encoded, LloydMax
from engine.compressed import CompressedCache
from engine.model import Model
from engine.prefix import PrefixStore
from engine.sequence import Sequence
from tests.engine.coded import DIM, HEADS, dense, drawn, expected, layout

CONTEXT = 250
Check = Callable[[Model], None]


@pytest.fixture(scope="module")
def folder(tiny_folder: Path) -> Path:
    return tiny_folder


def prefilled(model: Model, codec: str = "k4v4") -> Any:
    rng = random.Random(1)
    state = model.new_state(codec)
    model.prefill(state, [rng.randrange(256) for _ in range(CONTEXT)])
    return state


def check_lossless(model: Model) -> None:
    """Rows decoded alone, and in blocks with wrong drafts behind them, across the edge at 256."""
    rng = random.Random(2)
    plain = prefilled(model)
    blocks = plain.clone()
    forced = [rng.randrange(256) for _ in range(24)]
    rows = []
    for token in forced:
        rows.append(model.decode(plain, [token]).logits[0])
        model.commit(plain, 1)
    at = 0
    for count, wrong in ((3, 5), (2, 6), (6, 2), (1, 7), (8, 0), (4, 4)):
        logits = model.decode(blocks, [*forced[at : at + count], *[7] * wrong]).logits
        for index in range(count):
            assert torch.equal(logits[index], rows[at + index])
        model.commit(blocks, count)
        at += count
    assert plain.fingerprint() == blocks.fingerprint()


def check_reader(model: Model) -> None:
    """Attention against an independent reading of what is stored, alone and in a block."""
    rows = drawn(300)
    for real in (1, 8):
        cache = CompressedCache(layout())
        rows.fill(cache, 270)
        rows.write(cache, 270, 270 + real, clear=8 - real)
        q = torch.randn(8, 2 * HEADS, DIM, generator=torch.Generator().manual_seed(3))
        out = attend(q, cache, 270, 278)
        torch.testing.assert_close(out[0].double(), expected(q[0], *dense(cache, rows, 270)), atol=3e-5, rtol=1e-4)


def check_writer(model: Model) -> None:
    """What is stored is what was written: every block, no bias, both halves."""
    rows = drawn(330)
    cache = CompressedCache(layout())
    rows.fill(cache, 330)
    keys, values = dense(cache, rows, 320)
    mean = rows.keys[4:64].double().mean(0)
    for back, exact, shift in ((keys, rows.keys, mean), (values, rows.values, torch.zeros(()))):
        written = exact[:320].double().transpose(0, 1)
        loss, signal = back[:, :320] - written, written - (shift[:, None] if shift.dim() else shift)
        for start in range(0, 320, 64):
            block = slice(max(start, 4), start + 64)
            assert float(loss[:, block].norm() / signal[:, block].norm()) < 0.13
        slope = (loss[:, 4:] * signal[:, 4:]).sum() / signal[:, 4:].square().sum()
        assert abs(float(slope)) < 0.003


def check_codecs_differ(model: Model) -> None:
    prints = {codec: prefilled(model, codec).kv[0].committed(192) for codec in ("k4v4", "k4v2", "k8v4")}
    sizes = {codec: tuple(t.shape[-1] for t in (stored[0], stored[2])) for codec, stored in prints.items()}
    assert sizes == {"k4v4": (16, 16), "k4v2": (16, 8), "k8v4": (32, 16)}


def check_prefix(model: Model) -> None:
    store = PrefixStore(lambda: Sequence(model))
    rng = random.Random(3)
    prompt = [rng.randrange(256) for _ in range(200)]
    first = store.take(prompt, "k4v4")
    first.begin(prompt)
    list(first.prefill())
    store.put(first)
    assert store.take(prompt, "k8v4").begin(prompt) == 0


def check_rejected_rows_leave_nothing(model: Model) -> None:
    state = prefilled(model)
    before = state.clone()
    model.decode(state, [9] * 8)
    model.commit(state, 0)
    assert state.fingerprint() == before.fingerprint()
    assert state.kv[0].coded == CONTEXT // 64 * 64


CHECKS: tuple[Check, ...] = (
    check_lossless,
    check_reader,
    check_writer,
    check_codecs_differ,
    check_prefix,
    check_rejected_rows_leave_nothing,
)


def rotation_skipped_by_one_writer(patch: pytest.MonkeyPatch) -> None:
    """Blocks that are coded behind the first one are not rotated."""
    whole, calls = LloydMax.encode_block, []

    def faulty(self: LloydMax, x: Tensor) -> Encoded:
        calls.append(1)
        return whole(self, x if len(calls) < 5 else x @ self.turn.T)

    patch.setattr(LloydMax, "encode_block", faulty)


def keys_scaled_up(patch: pytest.MonkeyPatch) -> None:
    whole = CompressedCache._store

    def faulty(self: CompressedCache, rows: Encoded, codes: Tensor, scale: Tensor, tile: int, at: slice) -> None:
        if scale is self.key_scale:
            rows = replace(rows, scale=rows.scale * 1.05)
        whole(self, rows, codes, scale, tile, at)

    patch.setattr(CompressedCache, "_store", faulty)


def half_of_v_missing_alone(patch: pytest.MonkeyPatch) -> None:
    """The kernel for one row reads half of every value; the one for several rows is right (TheTom #99)."""
    write, read = CompressedCache.write, code_attention._looked_up
    alone = [False]

    def noted(self: CompressedCache, position: int, keys: Tensor, values: Tensor, clear: int = 0) -> None:
        alone[0] = keys.shape[0] == 1
        write(self, position, keys, values, clear)

    def faulty(codec: quantiser.Quantiser, codes: Tensor, cache: CompressedCache) -> Tensor:
        values = read(codec, codes, cache)
        if alone[0] and codec is cache.layout.values:
            values[..., values.shape[-1] // 2 :] = 0
        return values

    patch.setattr(CompressedCache, "write", noted)
    patch.setattr(code_attention, "_looked_up", faulty)


def drafts_coded_for_good(patch: pytest.MonkeyPatch) -> None:
    """Whatever was coded in advance counts as committed."""
    write = CompressedCache.write

    def faulty(self: CompressedCache, position: int, keys: Tensor, values: Tensor, clear: int = 0) -> None:
        write(self, position, keys, values, clear)
        self.coded = self.pending

    patch.setattr(CompressedCache, "write", faulty)


def edge_from_the_present_length(patch: pytest.MonkeyPatch) -> None:
    """All rows of a block read as codes what its last row may (notes, section 6.3)."""

    def faulty(position: int, rows: int, groups: int, device: torch.device) -> Tensor:
        at = torch.arange(position, position + rows, device=device).repeat(groups)[None, None, :, None]
        return Shifted(at, rows)

    class Shifted:
        def __init__(self, at: Tensor, rows: int) -> None:
            self.at, self.last = at, at.max()

        def __floordiv__(self, size: int) -> Tensor:
            return torch.minimum(self.last // size, self.at * 0 + self.last // size)

        def __lt__(self, other: Tensor) -> Tensor:
            return self.at < other

        def __gt__(self, other: Tensor) -> Tensor:
            return self.at > other

    patch.setattr(code_attention, "row_positions", faulty)


def nibbles_swapped(patch: pytest.MonkeyPatch) -> None:
    """The writer packs high nibbles first, the reader expects them last."""
    patch.setattr(quantiser, "pack", lambda codes, bits: packing.pack(codes.flip(-1), bits))


def codec_flag_ignored(patch: pytest.MonkeyPatch) -> None:
    """Values have the bits of keys, whatever the codec says (LLMKube #601)."""
    from engine import model

    specs = {name: replace(spec, value_bits=spec.key_bits) for name, spec in model.SPECS.items()}
    patch.setattr(model, "SPECS", specs)


def header_ignored(patch: pytest.MonkeyPatch) -> None:
    """A prefix is taken over whatever it was written with (omlx #1925)."""

    patch.setattr(Sequence, "holds", lambda self, codec: True)


def rotation_skipped_by_the_reader(patch: pytest.MonkeyPatch) -> None:
    """Another attention path reads the codes with queries as they are (llama.cpp #25382)."""
    whole = code_attention._code_parts

    def faulty(turned: Tensor, shift: Tensor, cache: CompressedCache, *rest: Any) -> Any:
        return whole(turned @ cache.layout.keys.rotate.T, shift, cache, *rest)

    patch.setattr(code_attention, "_code_parts", faulty)


MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], tuple[Check, ...]] = {
    rotation_skipped_by_one_writer: (check_writer,),
    keys_scaled_up: (check_writer,),
    half_of_v_missing_alone: (check_lossless, check_reader),
    drafts_coded_for_good: (check_lossless, check_rejected_rows_leave_nothing),
    edge_from_the_present_length: (check_lossless,),
    nibbles_swapped: (check_writer,),
    codec_flag_ignored: (check_codecs_differ,),
    header_ignored: (check_prefix,),
    rotation_skipped_by_the_reader: (check_reader,),
}


def test_the_checks_pass_without_a_fault(folder: Path) -> None:
    for check in CHECKS:
        check(Model.load(folder))
    assert {check for checks in MUTANTS.values() for check in checks} == set(CHECKS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_every_planted_failure_is_caught(
    mutant: Callable[[pytest.MonkeyPatch], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    for check in MUTANTS[mutant]:
        model = Model.load(folder)
        with pytest.raises(AssertionError):
            check(model)
