"""Keys inside a request that nobody reads, by name: what the header `x-specguard-ignored` lists beside the fields.

Must not: refuse anything: old turns that a client keeps may hold whatever another server once put into them.
Invariant: a key with a value that asks for nothing (null, false, "", [] or {}) is never listed, and each name is once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from pydantic import BaseModel


def inside(models: Iterable[BaseModel] | BaseModel | None, name: str) -> Iterator[str]:
    """Of wire models and those in them, without their place in a list: `tools.function.returns`."""
    for model in [models] if isinstance(models, BaseModel) else models or ():
        yield from _unread(model.model_extra or {}, (), name)
        for field in type(model).model_fields:
            value = getattr(model, field)
            if isinstance(value, BaseModel) or (isinstance(value, list) and value and isinstance(value[0], BaseModel)):
                yield from inside(value, f"{name}.{field}")


def of_parts(content: Any, read: Collection[str], name: str) -> Iterator[str]:
    """Of the parts of a content that is a list, and of what they hold themselves. read: keys that somebody reads."""
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict):
            yield from _unread(part, read, name)
            if isinstance(part.get("content"), list):
                yield from of_parts(part["content"], read, f"{name}.content")


def listed(*names: Iterable[str]) -> tuple[str, ...]:
    """All of them once, in order."""
    return tuple(dict.fromkeys(name for each in names for name in each))


def _unread(found: dict[str, Any], read: Collection[str], name: str) -> Iterator[str]:
    for key, value in found.items():
        if key not in read and value not in (None, False, "", [], {}):
            yield f"{name}.{key}"
