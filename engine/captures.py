"""Pieces of a forward that are captured once per shape and replayed: CUDA graphs on a GPU, recordings on a CPU.

Must not: be trusted before the self-test has compared both ways, or keep a capture whose bits differ from the code's.
Invariant: `run` gives what `work()` gives, bit for bit. The first call of a key runs the code (kernels are chosen and
workspaces allocated there), the second captures and compares, later ones replay. Off for a reason is off for good.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from engine.bits import equal
from engine.recording import NotCapturable, Recording, TooLarge, Watch

T = TypeVar("T")
ROOM = 256 << 20
"""Bytes that recordings may hold before no further shapes are recorded."""


class Replayable(Protocol):
    """result: what the captured code returned; each replay writes its tensors again. nbytes: of the results that it
    holds, as far as we are the ones who count them."""

    result: Any
    nbytes: int

    def replay(self) -> None: ...


class Graph:
    """A CUDA graph. pool: memory that graphs share, because one runs at a time and what it returns is read before the
    next one runs; stream: the one to capture on, for all graphs of a pool."""

    def __init__(self, work: Callable[[], Any], device: torch.device, pool: Any, stream: Any) -> None:
        self.nbytes = 0
        # torch's allocator does not recover from a capture that CUDA has to end
        with Watch():  # type: ignore[no-untyped-call]
            work()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            before = torch.cuda.current_stream()
            try:
                # other threads may copy meanwhile (shadows are written in the background)
                with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                    self.result = work()
            finally:
                torch.cuda.set_stream(before)  # a capture that fails leaves its own one

    def replay(self) -> None:
        self._graph.replay()


class Captures:
    """Of one model. on: whether pieces are captured and replayed; why: the reason if they cannot be."""

    def __init__(self, device: torch.device) -> None:
        self.on, self.why = False, ""
        self._device = device
        self._kept: dict[Hashable, Replayable] = {}
        self._met: set[Hashable] = set()
        self._refused: set[Hashable] = set()
        """Shapes of which no further piece is captured."""
        self._pool: Any = None
        self._stream: Any = None

    def __len__(self) -> int:
        """Pieces that are captured."""
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes that recordings hold."""
        return sum(kept.nbytes for kept in self._kept.values())

    def switch_off(self, why: str) -> None:
        self.on, self.why = False, why
        self._kept.clear()
        logging.getLogger(__name__).info("steps are not captured: %s", why)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The code itself runs, whatever is captured."""
        on, self.on = self.on, False
        try:
            yield
        finally:
            self.on = on and not self.why

    def run(self, key: Hashable, work: Callable[[], T]) -> T:
        """What `work` returns: tensors and None, or tuples of them; valid until the next `run` of the same key.

        key: says all that the code of `work` depends on; all but its last part name the shape, whose pieces run one
        after the other: one that reads what an earlier one returned is not captured unless that one was. work: reads
        its inputs from tensors that stay where they are, and writes to nothing that it has not made.
        """
        if not self.on:
            return work()
        kept = self._kept.get(key)
        if kept is None:
            if key not in self._met or _shape(key) in self._refused:
                self._met.add(key)
                return work()
            return self._capture(key, work) if self.nbytes < ROOM else work()
        kept.replay()
        result: T = kept.result
        return result

    def _capture(self, key: Hashable, work: Callable[[], T]) -> T:
        plain = work()
        for leaf in tree_leaves(plain):
            if leaf is not None and not isinstance(leaf, Tensor):
                self.switch_off(f"{key} returns a {type(leaf).__name__}, which cannot be compared")
                return plain
        try:
            captured = self._captured(work)
            captured.replay()
        except TooLarge:
            self._refused.add(_shape(key))
            return plain
        except NotCapturable as refusal:
            self.switch_off(str(refusal))
            return plain
        except torch.OutOfMemoryError:
            self.switch_off("the device has no room for what captures keep")
            return plain
        except RuntimeError as error:  # what CUDA refuses to capture
            self.switch_off(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}")
            return plain
        if not all(
            equal(ours, theirs) for ours, theirs in zip(_tensors(plain), _tensors(captured.result), strict=True)
        ):
            self.switch_off(f"a replay of {key} gives other bits than the code")
            return plain
        self._kept[key] = captured
        result: T = captured.result
        return result

    def _captured(self, work: Callable[[], Any]) -> Replayable:
        if self._device.type != "cuda":
            return Recording(work)
        if self._pool is None:
            self._pool, self._stream = torch.cuda.graph_pool_handle(), _stream(self._device)
        return Graph(work, self._device, self._pool, self._stream)


def _stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _shape(key: Hashable) -> Hashable:
    return key[:-1] if isinstance(key, tuple) else key


def _tensors(result: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
