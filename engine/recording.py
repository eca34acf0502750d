"""A piece of a forward recorded as a flat list of operators on fixed memory, and replayed: a captured graph for a CPU.

Must not: change a bit of what the piece computes, or record what needs a decision or a value of the host.
Invariant: a replay runs the recorded operators in their order on the very memory that they used when they were
recorded. Views are part of that memory and cost nothing; what is left is about a third of the calls, without the code
that chose them. Source of the idea: CUDA graphs, whose rules for what may be captured are kept here too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.bits import equal

LIMIT = 64 << 20
"""Bytes of results that a recording may hold: where they are larger, operators take longer than calling them does."""
_HOST = frozenset({"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "lift_fresh", "lift_fresh_copy", "item"})
_UNDECIDED = frozenset(
    {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.nondeterministic_seeded}
)
"""What an operator carries whose result, or the shape of it, is not decided by shapes alone."""
_COPIES = frozenset({"_to_copy", "clone"})
_CONSTANT = frozenset({"arange", "zeros", "ones", "full", "empty", "eye"})
"""Made of nothing but numbers: their result is there already, unless a later operator writes into it."""

Call = Callable[[], object]


class NotCapturable(Exception):
    """The piece needs the host while it runs, or more memory than it is worth; the message says what."""


class TooLarge(NotCapturable):
    """In this shape; in a smaller one the piece may be worth its memory."""


class Recording:
    """result: what `work` returned, its tensors are written again by each `replay`; nbytes: of all results it holds.

    work: without arguments; reads tensors that outlive the recording, makes no random numbers. Raises NotCapturable.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        recorder = _Recorder()
        with recorder:
            self.result = work()
        self._calls = recorder.calls()
        self.nbytes = recorder.held

    def replay(self) -> None:
        for call in self._calls:
            call()


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises NotCapturable at the first operator that a capture could not hold."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nobody compiles here; otherwise torch would load its compiler, in a second and 100 MB, to leave this out."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        with self:  # its parts are looked at, not the whole
            parts = func.decompose(*args, **named)
        if parts is not NotImplemented:
            return parts
        name = func._schema.name.split("::")[1]
        if name in _HOST or _masks(name, args) or (name != "index" and not _UNDECIDED.isdisjoint(func.tags)):
            raise NotCapturable(f"{name} needs the host while the piece runs")
        return self._run(name, func, args, named)

    def _run(self, name: str, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        result = func(*args, **named)
        if name in ("copy_", "_to_copy") and args[name == "copy_"].device != result.device:
            raise NotCapturable(f"{name} moves values between devices while the piece runs")
        return result


class _Recorder(Watch):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._steps: list[tuple[Call | None, int]] = []
        """Each with the memory that a constant fills, 0 where it is none; None: nothing to do in a replay."""
        self._written: set[int] = set()
        self.held = 0

    def _run(self, name: str, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if func._schema.is_mutable:
            self._written.update(_memory(written) for written in _written(func, args, named))
            result, call = _in_place(name, func, args, named)
            self._steps.append((call, 0))
            return result
        result = func(*args, **named)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        read = {_memory(leaf) for leaf in tree_leaves((args, named)) if isinstance(leaf, Tensor)}
        if made and all(_memory(tensor) in read for tensor in made):
            return result  # views, which stay valid
        self.held += sum(tensor.untyped_storage().nbytes() for tensor in made)
        if self.held > LIMIT:
            raise TooLarge(f"its results take more than {LIMIT >> 20} MiB")
        self._steps.append((_again(name, func, args, named, made), _memory(made[0]) if name in _CONSTANT else 0))
        return result

    def calls(self) -> tuple[Call, ...]:
        return tuple(call for call, constant in self._steps if call and (not constant or constant in self._written))


def _again(name: str, func: Any, args: tuple[Any, ...], named: dict[str, Any], made: list[Tensor]) -> Call:
    """The operator once more, into the memory of what it has made."""
    if name == "zeros":
        return made[0].zero_
    if name in _COPIES:
        return partial(made[0].copy_, args[0])
    if bound := _by_binding(name, args, named, made):
        return bound
    return partial(_copied if len(made) == 1 else _all_copied, made, partial(func, *args, **named))


def _by_binding(name: str, args: tuple[Any, ...], named: dict[str, Any], made: list[Tensor]) -> Call | None:
    """torch's own Python function with `out=`, a few times cheaper to call than the operator; None if there is none
    that gives these bits here."""
    functions = (getattr(place, name, None) for place in (torch._C._VariableFunctions, torch._C._nn))
    function = next(filter(None, functions), None)
    if function is None or name in _CONSTANT or len(made) != 1:
        return None
    (wanted,) = made
    probe = torch.empty_strided(wanted.shape, wanted.stride(), dtype=wanted.dtype, device=wanted.device)
    try:
        function(*args, **named, out=probe)
    except (TypeError, RuntimeError):
        return None
    if probe.stride() != wanted.stride() or not equal(probe, wanted):
        return None
    return partial(function, *args, **named, out=wanted)


def _in_place(name: str, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Call]:
    """Runs an operator that writes into its arguments; how to run it once more: by the tensor's method, which is
    cheaper to call, unless that has no such signature."""
    call = partial(getattr(torch.Tensor, name, func), *args, **named)
    try:
        return call(), call
    except TypeError:  # refused before anything was done
        call = partial(func, *args, **named)
        return call(), call


def _copied(made: list[Tensor], call: Callable[[], Tensor]) -> None:
    made[0].copy_(call())


def _all_copied(made: list[Tensor], call: Callable[[], Any]) -> None:
    results = (leaf for leaf in tree_leaves(call()) if isinstance(leaf, Tensor))
    for kept, result in zip(made, results, strict=True):
        kept.copy_(result)


def _written(func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> list[Tensor]:
    values = [
        named.get(argument.name, args[index] if index < len(args) else None)
        for index, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _masks(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a tensor is indexed by a mask, whose true entries would have to be counted."""
    return name == "index" and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])


def _memory(tensor: Tensor) -> int:
    """Where it lies; 0 for what has no plain memory, as oneDNN's packed weights."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0
