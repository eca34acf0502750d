"""The kernels' table and bars: a failure and what was not reached behind it are both missed."""

from __future__ import annotations

from engine.bench.kv.kernels import kernel_bars, kernel_table
from engine.codecs.spec import SPECS
from engine.kernels.check import KernelCheck

SOUND = [KernelCheck(codec, 2e-5, True) for codec in SPECS]


def test_sound_kernels_hold() -> None:
    assert [bar.holds for bar in kernel_bars(SOUND)] == [True, True]
    assert [row[2] for row in kernel_table(SOUND).rows] == ["yes"] * len(SPECS)


def test_what_was_not_reached_is_missed() -> None:
    assert [bar.holds for bar in kernel_bars(SOUND[:2])] == [True, False]


def test_wrong_numbers_and_wrong_bits_are_missed() -> None:
    assert [bar.holds for bar in kernel_bars([*SOUND[1:], KernelCheck("k8v8", 0.1, True)])] == [False, False]
    assert [bar.holds for bar in kernel_bars([*SOUND[1:], KernelCheck("k8v8", 1e-6, False)])] == [True, False]
