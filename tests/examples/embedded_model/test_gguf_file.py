"""The container, byte by byte, and back."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

from examples.embedded_model.gguf_file import INT32, Typed, Value, bytes_of, read, write

METADATA: dict[str, Value] = {
    "general.architecture": "qwen35",
    "a.count": 7,
    "a.share": 0.5,
    "a.is": True,
    "a.words": ["x", "längeres"],
    "a.flags": [True, False, True],
    "a.sections": Typed(INT32, [3, 3, 2, 0]),
    "a.signed": Typed(INT32, -1),
}
TENSORS = {
    "one": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "two": torch.tensor([1.5, -2.0, 3.25], dtype=torch.bfloat16),
    "three": torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).to(torch.float16),
}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", METADATA, TENSORS)
    content = read(tmp_path / "m.gguf")
    plain = {key: value.value if isinstance(value, Typed) else value for key, value in METADATA.items()}
    assert content.metadata == plain
    assert list(content.tensors) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert content.tensors[name].dtype == tensor.dtype
        assert torch.equal(content.tensors[name], tensor)
    assert not (tmp_path / "m.gguf.part").exists()


def test_every_byte_is_where_the_format_has_it(tmp_path: Path) -> None:
    tensor = torch.tensor([[1.0, 2.0, 3.0]])
    write(tmp_path / "m.gguf", {"k": 5}, {"t": tensor})
    data = (tmp_path / "m.gguf").read_bytes()
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
    pair = struct.pack("<Q", 1) + b"k" + struct.pack("<II", 4, 5)
    # dimensions from the fastest one: three columns, one row
    described = struct.pack("<Q", 1) + b"t" + struct.pack("<IQQIQ", 2, 3, 1, 0, 0)
    before = head + pair + described
    start = -(-len(before) // 32) * 32
    assert data[: len(before)] == before
    assert data[len(before) : start] == b"\0" * (start - len(before))
    assert data[start : start + 12] == struct.pack("<fff", 1, 2, 3)
    assert len(data) % 32 == 0


def test_tensors_begin_at_multiples_of_32(tmp_path: Path) -> None:
    odd = {f"t{n}": torch.full((n,), float(n), dtype=torch.bfloat16) for n in (1, 17, 3)}
    write(tmp_path / "m.gguf", {}, odd)
    assert all(torch.equal(read(tmp_path / "m.gguf").tensors[name], odd[name]) for name in odd)
    data = (tmp_path / "m.gguf").read_bytes()
    places = [data.index(bytes_of(odd[name])) for name in ("t17", "t3")]
    assert [place % 32 for place in places] == [0, 0]


def test_what_has_no_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.b: dict has no type"):
        write(tmp_path / "m.gguf", {"a.b": {}}, {})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"t is torch\.int64"):
        write(tmp_path / "m.gguf", {}, {"t": torch.arange(3)})
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: b"GGML" + data[4:], "no GGUF file"),
        (lambda data: data[:4] + struct.pack("<I", 2) + data[8:], "version 2"),
        (lambda data: data[:100], "ends too early"),
        (lambda data: data[:-32], "lies outside the file"),
    ],
)
def test_damaged_files_are_refused(damage: object, says: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write(path, METADATA, TENSORS)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ValueError, match=says):
        read(path)
