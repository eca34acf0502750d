"""Kernels are used where they can be, and every way of not having them is told and leaves operators at work."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from engine.attention import attend
from engine.codecs.quantiser import LloydMax
from engine.compressed import CompressedCache
from engine.kernels import switch
from engine.kernels.switch import Kernels
from tests.engine.coded import HEADS, drawn, layout
from tests.engine.readers import CPU, reader


def read(cache: CompressedCache) -> torch.Tensor:
    rows = drawn(100)
    rows.fill(cache, 90)
    rows.write(cache, 90, 98)
    q = torch.randn(8, 2 * HEADS, 64, generator=torch.Generator().manual_seed(1))
    return attend(q, cache, 90, 98)


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Kernels:
    kernels = Kernels(True)

    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(kernels, "_read", fail)
    return kernels


def test_a_cpu_has_none_and_needs_no_reason() -> None:
    kernels = Kernels.of(CPU)
    assert (kernels.on, kernels.why) == (False, "")


def test_a_device_without_triton_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "engine.kernels.attend", raising=False)
    kernels = Kernels.of(torch.device("cuda"))
    assert not kernels.on
    assert kernels.why.startswith("triton cannot be used (ModuleNotFoundError")


def test_a_kernel_that_fails_is_told_and_operators_read_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, shared = CompressedCache(layout()), layout()
    kernels = failing(monkeypatch, ValueError("no such instruction\nand more"))
    object.__setattr__(shared, "kernels", kernels)
    assert torch.equal(read(CompressedCache(shared)), read(plain))
    assert (kernels.on, kernels.why) == (False, "a kernel has failed (ValueError: no such instruction)")
    assert "a kernel has failed" in caplog.text


def test_a_full_device_is_not_the_kernels_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = layout()
    kernels = failing(monkeypatch, torch.OutOfMemoryError("full"))
    object.__setattr__(shared, "kernels", kernels)
    with pytest.raises(torch.OutOfMemoryError):
        read(CompressedCache(shared))
    assert kernels.on


def test_another_quantiser_is_read_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault lies in `decode`, which no kernel calls."""

    class Other(LloydMax):
        pass

    shared = layout()
    object.__setattr__(shared, "values", Other(4, 64, CPU))
    kernels = failing(monkeypatch, AssertionError("was called"))
    object.__setattr__(shared, "kernels", kernels)
    read(CompressedCache(shared))
    assert kernels.on


def test_a_smaller_tile_is_tried_once_where_shared_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    reader("triton", monkeypatch)
    from engine.kernels import attend as kernel

    tried: list[int] = []
    whole = kernel.code_parts

    def short(*arguments: Any) -> Any:
        tried.append(arguments[-1].queries)
        if arguments[-1].queries == 64:
            raise kernel.OutOfResources(200_000, 100_000, "shared memory")
        return whole(*arguments)

    monkeypatch.setattr(kernel, "code_parts", short)
    shared = layout()
    torch.testing.assert_close(read(CompressedCache(shared)), _by_operators(monkeypatch), atol=1e-5, rtol=1e-4)
    read(CompressedCache(shared))
    assert tried == [64, 32, 32]
    assert shared.kernels.on


def _by_operators(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(switch, "INTERPRETED", False)
        return read(CompressedCache(layout()))
