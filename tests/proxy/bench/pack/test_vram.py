"""Peaks of a device: read where there is one, of one mode at a time, and left out otherwise."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.bench.pack.report import report
from proxy.bench.pack.run import Measured
from proxy.bench.pack.vram import Vram, peak
from tests.proxy.bench.pack.test_report import FULL_SPEED, PLAN, measured

RECORDED = {"plain": Vram(412_876_800, 536_870_912), FULL_SPEED: Vram(446_431_232, 574_619_648)}
"""In the form in which torch tells them, bytes; the numbers are examples of the form, no measurement."""


@dataclass
class Cuda:
    """What is asked of torch.cuda, as on a device: a peak holds until it is reset."""

    now: int = 0
    most: int = 0
    ready: bool = True
    log: list[str] = field(default_factory=list)

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return self.ready

    def empty_cache(self) -> None:
        self.log.append("emptied")

    def device_count(self) -> int:
        return 2

    def reset_peak_memory_stats(self, device: int) -> None:
        self.most = self.now

    def takes(self, size: int) -> None:
        self.now += size
        self.most = max(self.most, self.now)

    def max_memory_allocated(self, device: int) -> int:
        return 0 if device else self.most

    def max_memory_reserved(self, device: int) -> int:
        return 0 if device else 2 * self.most


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=made))
    return made


def test_a_peak_is_of_its_own_mode(cuda: Cuda) -> None:
    found: dict[str, Vram] = {}
    for mode, sizes in (("a", (100, -40, -60)), ("b", (30, -30)), ("a", (70, -70))):
        with peak(mode, found, alone=True):
            for size in sizes:
                cuda.takes(size)
    assert found == {"a": Vram(100, 200), "b": Vram(30, 60)} and len(cuda.log) == 3


def test_a_mode_that_breaks_off_is_told_too(cuda: Cuda) -> None:
    found: dict[str, Vram] = {}
    with pytest.raises(KeyboardInterrupt), peak("a", found, alone=True):
        cuda.takes(5)
        raise KeyboardInterrupt
    assert found == {"a": Vram(5, 10)}


def test_nothing_is_told_where_engines_stand_side_by_side_or_on_no_device(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Vram] = {}
    with peak("a", found, alone=False):
        cuda.takes(5)
    cuda.ready = False
    with peak("a", found, alone=True):
        pass
    monkeypatch.delitem(sys.modules, "torch")
    with peak("a", found, alone=True):
        pass
    assert found == {}


def _memory(found: Measured) -> Any:
    return next(table for table in report(found, PLAN, "test").tables if "caches hold" in table.title)


def test_a_column_where_it_was_measured_and_none_otherwise() -> None:
    found = measured("plain", FULL_SPEED)
    assert _memory(found).columns == ("mode", "tokens", "bytes", "per token")
    assert report(found, PLAN, "test").data["vram"] == {}
    assert all(len(row) == len(each.columns) for each in report(found, PLAN, "test").tables for row in each.rows)
    found.vram = dict(RECORDED)
    table = _memory(found)
    assert table.columns[4:] == ("VRAM peak MiB, allocated", "reserved")
    assert table.rows[0] == ("plain", 100, 5000, 50.0, 393.75, 512.0)
    del found.kv["plain"], found.vram[FULL_SPEED]
    assert _memory(found).rows == (
        (FULL_SPEED, 100, 5000, 50.0, None, None),
        ("plain", None, None, None, 393.75, 512.0),
    )
    assert report(found, PLAN, "test").data["vram"] == {"plain": {"allocated": 412876800, "reserved": 536870912}}
