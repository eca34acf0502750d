"""Tables and bars of the kernels' check against torch operators.

Must not: check again what the engine's own start-up check covers, or by another rule.
Invariant: a codec that was not reached, because an earlier one failed, is a missed bar.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.bench.report import Bar, Table
from engine.codecs.spec import SPECS
from engine.kernels.check import TOLERANCE, KernelCheck


def kernel_table(found: Sequence[KernelCheck]) -> Table:
    rows = tuple((check.codec, check.off, "yes" if check.equal else "NO") for check in found)
    columns = ("codec", "largest distance", "same bits in any company")
    return Table("Kernels against operators", columns, rows, "distance as a share of a row's length")


def kernel_bars(found: Sequence[KernelCheck]) -> list[Bar]:
    worst = max(check.off for check in found)
    return [
        Bar.at_most("kernels against operators: largest distance", TOLERANCE, worst),
        Bar.at_least("codecs whose kernels are sound", len(SPECS), sum(check.sound for check in found)),
    ]
