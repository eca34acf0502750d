"""The kernels against dense attention over what the codes say, in triton's interpreter; and that they compile."""

from __future__ import annotations

import pytest
import torch

from engine.attention import attend
from engine.codecs.spec import SPECS
from engine.compressed import CompressedCache
from tests.engine.coded import DIM, HEADS, Rows, dense, drawn, expected, layout
from tests.engine.readers import reader

SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    reader("triton", monkeypatch)


def queries(rows: int, dim: int = DIM, seed: int = 9) -> torch.Tensor:
    return torch.randn(rows, 2 * HEADS, dim, generator=torch.Generator().manual_seed(seed))


def step(cache: CompressedCache, rows: Rows, q: torch.Tensor, position: int, real: int) -> torch.Tensor:
    rows.write(cache, position, position + real, clear=q.shape[0] - real)
    out = attend(q, cache, position, position + q.shape[0])[:real]
    assert cache.layout.kernels.on, cache.layout.kernels.why
    return out


@pytest.mark.parametrize("codec", SPECS)
@pytest.mark.parametrize("position", [60, 318, *(pytest.param(p, marks=SLOW) for p in (0, 3, 57, 64, 130, 250, 600))])
def test_equals_dense_attention_over_the_decoded_cache(codec: str, position: int) -> None:
    rows = drawn(700, bias=3.0)
    cache = CompressedCache(layout(codec))
    rows.fill(cache, position)
    q = queries(8)
    out = step(cache, rows, q, position, 8)
    for index in range(8):
        wanted = expected(q[index], *dense(cache, rows, position + index))
        torch.testing.assert_close(out[index].double(), wanted, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("dim", [80, 96, *(pytest.param(d, marks=SLOW) for d in (24, 128, 256))])
@pytest.mark.parametrize("codec", ["k4v2", "k3v3", *(pytest.param(c, marks=SLOW) for c in ("k8v8", "k8v4", "k4v4"))])
def test_every_head_size(codec: str, dim: int) -> None:
    """80 and 96 leave columns of a tile unused."""
    rows = drawn(140, dim=dim)
    cache = CompressedCache(layout(codec, dim))
    rows.fill(cache, 130)
    q = queries(8, dim)
    out = step(cache, rows, q, 130, 8)
    for index in (0, 7):
        wanted = expected(q[index], *dense(cache, rows, 130 + index))
        torch.testing.assert_close(out[index].double(), wanted, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("position", [66, *(pytest.param(p, marks=SLOW) for p in (40, 63, 64, 255, 256, 515))])
def test_a_row_has_the_same_bits_wherever_it_stands(position: int) -> None:
    """Before wrong drafts, behind right ones, on both sides of an edge."""
    rows, wrong = drawn(600), drawn(600, seed=5)
    row = queries(1)
    bits = []
    for index in (0, 2, 3, 7):
        for real in sorted({index + 1, 8}):
            cache = CompressedCache(layout())
            rows.fill(cache, position - index)
            mixed = Rows(rows.keys.clone(), rows.values.clone())
            mixed.keys[position + 1 :], mixed.values[position + 1 :] = (
                wrong.keys[position + 1 :],
                wrong.values[position + 1 :],
            )
            q = queries(8, seed=10 * index + real)
            q[index] = row[0]
            bits.append(step(cache, mixed, q, position - index, real)[index])
    assert all(torch.equal(b, bits[0]) for b in bits)


def test_splits_are_cut_at_absolute_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """All three lengths of splits, in a small copy of the table; what lies behind a row changes no bit of it."""
    from engine.kernels import attend as kernel

    monkeypatch.setattr(kernel, "NEAR", 128)
    monkeypatch.setattr(kernel, "FAR", 384)
    monkeypatch.setattr(kernel, "SPLITS", (64, 128, 256))
    rows = drawn(1100)
    near, far = CompressedCache(layout()), CompressedCache(layout())
    rows.fill(near, 700)
    rows.fill(far, 1000)
    q = queries(8)
    assert kernel.split_count(640, (64, 128, 256)) == 2 + 2 + 1
    assert kernel.split_count(960, (64, 128, 256)) == 2 + 2 + 3
    coded = [kernel_parts(cache, q, 690) for cache in (near, far)]
    assert all(torch.equal(a, b) for a, b in zip(*coded, strict=True))
    out = step(near, rows, q, 700, 8)
    torch.testing.assert_close(out[1].double(), expected(q[1], *dense(near, rows, 701)), atol=3e-5, rtol=1e-4)


def kernel_parts(cache: CompressedCache, q: torch.Tensor, position: int) -> tuple[torch.Tensor, ...]:
    from engine.kernels.check import _read

    parts = _read(q, cache, position)
    assert parts is not None
    return parts.highest, parts.total, parts.mixed


def test_the_real_table_of_splits() -> None:
    from engine.kernels import attend as kernel

    counts = [kernel.split_count(n, kernel.SPLITS) for n in (0, 64, 256, 320, 8192, 8256, 32_768, 131_072)]
    assert counts == [0, 1, 1, 2, 32, 33, 56, 104]


@pytest.mark.parametrize("arch", [80, pytest.param(90, marks=SLOW)])
@pytest.mark.parametrize("codec", ["k3v3", *(pytest.param(c, marks=SLOW) for c in SPECS if c != "k3v3")])
def test_it_compiles_for_a_device(arch: int, codec: str) -> None:
    """Down to machine code, at Qwen3.6-27B's heads, in shared memory that a consumer's card has."""
    import subprocess
    import sys

    found = subprocess.run(
        [sys.executable, "-m", "tests.engine.kernels.compiling", str(arch), codec],
        capture_output=True,
        text=True,
        env={
            "TRITON_INTERPRET": "0",
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ":".join(sys.path),
            "HOME": "/nonexistent",
        },
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    shared = [int(line.split()[-1]) for line in found.stdout.splitlines()]
    assert len(shared) == 2
    assert max(shared) <= 99 << 10
