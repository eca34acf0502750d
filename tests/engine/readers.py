"""The two ways to read codes, for tests that must hold for both: torch operators, and the Triton kernels.

Must not: let a test pass on operators that was meant for kernels.
Invariant: `reader("triton")` leaves kernels on, in triton's interpreter, or skips with a reason.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch

from engine.kernels import switch

CPU = torch.device("cpu")
READERS = ("operators", "triton")


def reader(name: str, patch: pytest.MonkeyPatch) -> None:
    """Sets how caches made from now on are read on a CPU."""
    if name == "operators":
        return
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed: pip install '.[triton]', or make test-triton")
    import triton

    if not triton.knobs.runtime.interpret:
        pytest.skip("triton compiles here (there is a device); set TRITON_INTERPRET=1 to interpret on the CPU")
    patch.setattr(switch, "INTERPRETED", True)
    kernels = switch.Kernels.of(CPU)
    assert kernels.on, kernels.why


def no_cuda() -> str:
    """Why CUDA tests do not run here; empty where they do."""
    return "" if torch.cuda.is_available() else "no CUDA device"
