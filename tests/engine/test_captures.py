"""When code runs, when it is captured, and what ends that for good."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.captures import Captures, Graph

CPU = torch.device("cpu")


def on() -> Captures:
    captures = Captures(CPU)
    captures.on = True
    return captures


def test_off_nothing_is_captured() -> None:
    captures, x = Captures(CPU), torch.ones(3)
    for _ in range(3):
        assert captures.run("a", lambda: x * 2).tolist() == [2, 2, 2]
    assert len(captures) == 0


@torch.inference_mode()
def test_the_code_runs_then_is_captured_then_is_replayed() -> None:
    captures, x = on(), torch.zeros(3)
    ran = []

    def work() -> tuple[Tensor, None]:
        ran.append(len(captures))
        return x * 2, None

    found = []
    for value in range(5):
        x.fill_(value)
        result, nothing = captures.run("a", work)
        assert nothing is None
        found.append(result.tolist())
    assert found == [[2 * value] * 3 for value in range(5)]
    assert (len(ran), len(captures)) == (3, 1), "once as it is, then to compare with, then to record"
    with captures.paused():
        captures.run("a", work)
    assert (len(ran), captures.on) == (4, True)


@torch.inference_mode()
def test_keys_are_captured_apart() -> None:
    captures, x = on(), torch.zeros(1)
    for value in range(4):
        x.fill_(value)
        assert [float(captures.run(key, lambda key=key: x + key)) for key in (10, 20)] == [value + 10, value + 20]
    assert len(captures) == 2


@torch.inference_mode()
def test_a_capture_that_gives_other_bits_is_not_kept() -> None:
    """Here because the code depends on something that its inputs do not show."""
    captures, x, calls = on(), torch.ones(3), []

    def work() -> Tensor:
        calls.append(1)
        return x * len(calls)

    assert captures.run("a", work).tolist() == [1, 1, 1]
    assert captures.run("a", work).tolist() == [2, 2, 2]
    assert (captures.on, len(captures)) == (False, 0)
    assert "a gives other bits" in captures.why
    assert captures.run("a", work).tolist() == [4, 4, 4]


@torch.inference_mode()
def test_what_cannot_be_captured_runs_as_it_is() -> None:
    captures, x = on(), torch.ones(3)
    for value in (1.0, 2.0, 3.0):
        x.fill_(value)
        assert captures.run("a", lambda: x * float(x[0])).tolist() == [value * value] * 3
    assert (captures.on, captures.why) == (False, "_local_scalar_dense needs the host while the piece runs")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
@torch.inference_mode()
def test_a_device_that_fails_to_capture_costs_no_response(error: type, monkeypatch: pytest.MonkeyPatch) -> None:
    captures, x = on(), torch.ones(3)

    def fail(self: Captures, work: object) -> None:
        raise error("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(Captures, "_captured", fail)
    assert [captures.run("a", lambda: x * 2).tolist() for _ in range(3)] == [[2.0] * 3] * 3
    assert not captures.on
    assert ("room" in captures.why) == (error is torch.OutOfMemoryError)
    assert "\n" not in captures.why


@torch.inference_mode()
def test_where_recordings_hold_much_no_further_shapes_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    captures, x = on(), torch.zeros(100)
    monkeypatch.setattr("engine.captures.ROOM", 500)
    for value in range(4):
        x.fill_(value)
        assert [float(captures.run(key, lambda key=key: x + key)[0]) for key in (1, 2, 3)] == [
            value + 1,
            value + 2,
            value + 3,
        ]
    assert (len(captures), captures.nbytes, captures.on) == (2, 800, True)


@torch.inference_mode()
def test_a_shape_that_is_too_large_leaves_the_others_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """And none of its later pieces is captured: they read what the large one has returned, which now lies anywhere."""
    captures, x = on(), torch.zeros(100)
    monkeypatch.setattr("engine.recording.LIMIT", 1000)

    def step(shape: str, large: bool) -> float:
        first = captures.run((shape, 0), lambda: (x + 1) * 2 + 3 if large else x + 1)
        return float(captures.run((shape, 1), lambda: first * 2)[0])

    for value in range(5):
        x.fill_(value)
        assert step("small", large=False) == (value + 1) * 2
        assert step("large", large=True) == ((value + 1) * 2 + 3) * 2
    assert (captures.on, len(captures)) == (True, 2)


@dataclass
class Opaque:
    tensor: Tensor


@torch.inference_mode()
def test_a_result_that_cannot_be_compared_is_not_captured() -> None:
    captures, x, calls = on(), torch.ones(3), []

    def work() -> Opaque:
        calls.append(1)
        return Opaque(x * len(calls))

    found = [float(captures.run("a", work).tensor[0]) for _ in range(4)]
    assert (found, captures.on) == ([1, 2, 3, 4], False)
    assert captures.why == "a returns a Opaque, which cannot be compared"


def test_a_pause_switches_nothing_on_again() -> None:
    captures = on()
    with captures.paused():
        captures.switch_off("for a test")
    assert not captures.on


class Begun:
    """In place of `torch.cuda.graph`: as there, a capture that CUDA has made invalid leaves its own stream current."""

    current: Any = "the step's"

    def __init__(self, graph: object, pool: object, stream: object, capture_error_mode: str) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        self.before, Begun.current = Begun.current, self.stream

    def __exit__(self, kind: object, *_: object) -> None:
        if kind:
            raise RuntimeError("operation failed due to a previous error during capture")
        Begun.current = self.before


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What of torch.cuda a capture needs; the devices that were made the current one."""
    devices: list[object] = []
    monkeypatch.setattr(Begun, "current", "the step's")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", Begun)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"the captures' on {device}")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Begun.current)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: setattr(Begun, "current", stream))
    monkeypatch.setattr(torch.cuda, "device", lambda device: devices.append(device) or nullcontext())
    monkeypatch.setattr(Graph, "replay", lambda self: None)
    return devices


@torch.inference_mode()
def test_a_failed_capture_gives_the_stream_back(cuda: list[object]) -> None:
    captures, x, ran = Captures(torch.device("cuda:1")), torch.ones(2), list[Any]()
    captures.on = True

    def work() -> Tensor:
        ran.append(Begun.current)
        if Begun.current != "the step's":
            raise RuntimeError("operation not permitted when stream is capturing")
        return x * 2

    for _ in range(3):
        assert captures.run("a", work).tolist() == [2, 2]
    assert Begun.current == "the step's"
    assert "the captures' on cuda:1" in ran
    assert cuda == [torch.device("cuda:1")]
    assert not captures.on


@torch.inference_mode()
def test_a_capture_that_would_fail_is_not_begun(cuda: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's allocator does not recover from a capture that CUDA had to end."""
    captures, x = Captures(torch.device("cuda")), torch.ones(2)
    captures.on = True
    for _ in range(3):
        assert captures.run("a", lambda: x * float(x[0])).tolist() == [1, 1]
    assert cuda == []
    assert captures.why == "_local_scalar_dense needs the host while the piece runs"
    captures = Captures(torch.device("cuda"))
    captures.on = True
    for _ in range(2):
        captures.run("a", lambda: x.to("meta"))
    assert captures.why == "_to_copy moves values between devices while the piece runs"
