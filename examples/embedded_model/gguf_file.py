"""The GGUF container, version 3: a header, typed metadata, descriptions of tensors, and their bytes at aligned places.

Must not: know a model. Written from the format's public description (docs/gguf.md of ggml).
Invariant: the same metadata and tensors give the same bytes; nothing is written that a reader of version 3 cannot read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
ITEMS = {UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}
TENSOR_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 30}


@dataclass(frozen=True, slots=True)
class Typed:
    """A value with its type in the file; without it, str, bool, int (unsigned, 32 bits) and float (32 bits) are taken
    as they are, and sequences as arrays of what their first item is."""

    type: int
    value: int | float | Sequence[int] | Sequence[float]


Value = str | bool | int | float | Typed | Sequence[str] | Sequence[bool]


def write(path: Path, metadata: Mapping[str, Value], tensors: Mapping[str, Tensor]) -> None:
    """Replaces `path` by the complete file. Tensors are float32, float16 or bfloat16; the format counts dimensions
    from the fastest one, so their shapes are written backwards. Raises ValueError."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata)))
        for key, value in metadata.items():
            file.write(_string(key) + _typed(key, value))
        offset = 0
        for name, tensor in tensors.items():
            file.write(_describe(name, tensor, offset))
            offset += _padded(tensor.numel() * tensor.element_size())
        _pad(file)
        for tensor in tensors.values():
            file.write(bytes_of(tensor))
            _pad(file)
    part.replace(path)


def bytes_of(tensor: Tensor) -> bytes:
    """Of any dtype, row by row, little-endian."""
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _describe(name: str, tensor: Tensor, offset: int) -> bytes:
    if tensor.dtype not in TENSOR_TYPES:
        raise ValueError(f"{name} is {tensor.dtype}; convert it to float32, float16 or bfloat16")
    dims = tuple(reversed(tensor.shape))
    head = _string(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return head + struct.pack("<IQ", TENSOR_TYPES[tensor.dtype], offset)


def _typed(key: str, value: Value) -> bytes:
    match value:
        case Typed(type_, inner) if isinstance(inner, int | float):
            return struct.pack("<I", type_) + struct.pack(ITEMS[type_], inner)
        case Typed(type_, inner):
            return _array(type_, [struct.pack(ITEMS[type_], item) for item in inner])  # type: ignore[union-attr]
        case str():
            return struct.pack("<I", STRING) + _string(value)
        case bool():
            return struct.pack("<I?", BOOL, value)
        case int():
            return struct.pack("<II", UINT32, value)
        case float():
            return struct.pack("<If", FLOAT32, value)
        case [str(), *_]:
            return _array(STRING, [_string(str(item)) for item in value])
        case [bool(), *_]:
            return _array(BOOL, [struct.pack("<?", item) for item in value])
    raise ValueError(f"{key}: {type(value).__name__} has no type in the file; wrap it in Typed")


def _array(type_: int, items: Sequence[bytes]) -> bytes:
    return struct.pack("<IIQ", ARRAY, type_, len(items)) + b"".join(items)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _pad(file: BinaryIO) -> None:
    file.write(b"\0" * (_padded(file.tell()) - file.tell()))


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds. tensors: as torch tensors, shapes as torch counts them."""

    metadata: dict[str, object]
    tensors: dict[str, Tensor]


def read(path: Path) -> Content:
    """Reads back what `write` writes. Raises ValueError for anything else."""
    data = path.read_bytes()
    place = _Place(data)
    if place.take(4) != MAGIC:
        raise ValueError(f"{path} is no GGUF file")
    version, tensor_count, key_count = place.unpack("<IQQ")
    if version != VERSION:
        raise ValueError(f"{path} is GGUF version {version}, not {VERSION}")
    metadata = {place.string(): place.value() for _ in range(key_count)}
    described = [place.tensor() for _ in range(tensor_count)]
    start = _padded(place.at)
    return Content(metadata, dict(_tensors(data, start, described)))


Description = tuple[str, tuple[int, ...], int, int]


def _tensors(data: bytes, start: int, described: Sequence[Description]) -> Iterator[tuple[str, Tensor]]:
    dtypes = {number: dtype for dtype, number in TENSOR_TYPES.items()}
    for name, dims, type_, offset in described:
        dtype, shape = dtypes[type_], tuple(reversed(dims))
        count = 1
        for dim in shape:
            count *= dim
        at = start + offset
        if at % ALIGNMENT or at + count * dtype.itemsize > len(data):
            raise ValueError(f"{name} lies outside the file, or where no tensor may begin")
        flat = torch.frombuffer(bytearray(data[at : at + count * dtype.itemsize]), dtype=dtype)
        yield name, flat.reshape(shape)


class _Place:
    """Where in the file is being read."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self._data):
            raise ValueError("the file ends too early")
        self.at += size
        return self._data[self.at - size : self.at]

    def unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def string(self) -> str:
        (size,) = self.unpack("<Q")
        return self.take(size).decode()

    def value(self, type_: int | None = None) -> object:
        if type_ is None:
            (type_,) = self.unpack("<I")
        if type_ == STRING:
            return self.string()
        if type_ == ARRAY:
            item, count = self.unpack("<IQ")
            return [self.value(item) for _ in range(count)]
        if type_ not in ITEMS:
            raise ValueError(f"metadata of type {type_} is nothing that is written here")
        return self.unpack(ITEMS[type_])[0]

    def tensor(self) -> Description:
        name = self.string()
        (rank,) = self.unpack("<I")
        dims = self.unpack(f"<{rank}Q")
        type_, offset = self.unpack("<IQ")
        return name, dims, type_, offset
