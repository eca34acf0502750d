"""Keys inside a request that nobody reads, by name: what the header `x-specguard-ignored` lists beside the fields.

Must not: refuse anything: old turns that a client keeps may hold whatever another server once put into them.
Invariant: a key with a value that asks for nothing (null, false, "", [] or {}) is never listed, and each name is once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel


def inside(models: list[Any] | BaseModel | None, name: str) -> Iterator[str]:
    """Of wire models and those in them, without their place in a list: `tools.function.returns`."""
    if not models:
        return
    each: Iterable[BaseModel] = models if isinstance(models, list) else (models,)  # pydantic is slow to be asked
    for model in each:
        if extra := model.__pydantic_extra__:
            yield from _unread(extra, (), name)
        for field in _holding(type(model)):
            if value := getattr(model, field):
                yield from inside(value, f"{name}.{field}")


@cache
def _holding(model: type[BaseModel]) -> tuple[str, ...]:
    """Fields that hold wire models. An agent's history has hundreds of messages of a few kinds."""
    return tuple(name for name, field in model.model_fields.items() if _is_model(field.annotation))


def _is_model(annotation: Any) -> bool:
    """Is it a wire model, or a list of them, or perhaps nothing?"""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(map(_is_model, get_args(annotation)))


def of_parts(content: Any, read: Collection[str], name: str) -> Iterator[str]:
    """Of the parts of a content that is a list, and of what they hold themselves. read: keys that somebody reads."""
    if not isinstance(content, list):
        return
    for part in content:
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
