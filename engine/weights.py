"""Tensors of a model folder, each of them taken exactly once.

Must not: convert silently; shapes are checked, types are cast where the caller says so.
Invariant: after `finish()` every tensor of the files was consumed once, or a WeightError named the one that was not.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import WeightError

TEXT_PREFIXES = ("model.language_model.", "model.")
IGNORED_PREFIXES = ("model.visual.", "visual.")


class Weights:
    """Lazily read tensors, addressed without the text model's prefix (`layers.0....`, `embed_tokens.weight`)."""

    def __init__(self, folder: Path | str, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.taken_bytes = 0
        """Bytes on the device of all tensors taken so far."""
        self._where: dict[str, Path] = {}
        for path in _files(Path(folder)):
            try:
                with safe_open(str(path), framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 (not a dict)
                        if name.startswith(IGNORED_PREFIXES):
                            continue
                        if name in self._where:
                            raise WeightError(f"{name}: is in {self._where[name].name} and in {path.name}")
                        self._where[name] = path
            except (SafetensorError, OSError) as error:
                raise WeightError(f"{path.name}: is not a readable safetensors file ({error})") from None
        if not self._where:
            raise WeightError(f"{folder}: holds no tensors")
        self.prefix = next((p for p in TEXT_PREFIXES if f"{p}embed_tokens.weight" in self._where), TEXT_PREFIXES[-1])

    def has(self, name: str) -> bool:
        """Is there a tensor of exactly this name or, for the text model's own, with its prefix?"""
        return name in self._where or self.prefix + name in self._where

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Removes and returns a tensor; raises WeightError if it is missing or of another shape."""
        outside = name.startswith(("mtp.", "lm_head."))  # these lie beside the text model
        full = name if name in self._where or outside else self.prefix + name
        path = self._where.pop(full, None)
        if path is None:
            raise WeightError(f"{full}: is missing from the model's files (or needed twice)")
        with safe_open(str(path), framework="pt") as file:
            tensor: Tensor = file.get_tensor(full)
        if tuple(tensor.shape) != shape:
            raise WeightError(f"{full}: has shape {list(tensor.shape)}, the configuration asks for {list(shape)}")
        if not tensor.is_floating_point():
            raise WeightError(f"{full}: has type {tensor.dtype}; only floating point weights are supported")
        tensor = tensor.to(device=self.device, dtype=dtype).contiguous()
        self.taken_bytes += tensor.numel() * tensor.element_size()
        return tensor

    def discard(self, name: str) -> None:
        """Drops a tensor that is allowed to be there but not needed (the head of a tied model)."""
        self._where.pop(name, None)

    def finish(self) -> None:
        """Raises WeightError if any tensor is left over."""
        if self._where:
            some = ", ".join(sorted(self._where)[:5])
            raise WeightError(f"{len(self._where)} tensor(s) belong to no part of the model: {some}")


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            raise WeightError(f"{index.name}: has no usable weight_map (tensor names to file names)") from None
        for name in names:
            # a model's index must not make us open files elsewhere
            if not isinstance(name, str) or not name or Path(name).name != name:
                raise WeightError(f"{index.name}: {name!r:.80} is not the name of a file in the model's folder")
        files = [folder / name for name in names]
    else:
        files = [folder / "model.safetensors"]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise WeightError(f"{missing[0]}: is missing in {folder.name}")
    sidecar = folder / "mtp.safetensors"
    if sidecar.is_file() and sidecar not in files:
        files.append(sidecar)
    return files
