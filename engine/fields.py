"""Typed access to the fields of a config.json, with errors that name the field.

Must not: know what a field means, or invent a value that neither the file nor the caller gives.
Invariant: a returned value has the asked type and range; everything else is a ConfigError that begins with the name.
A field that is null counts as absent, as it does for transformers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from engine.errors import ConfigError


class Fields:
    """raw: the JSON object's fields that are not null; path: where it stands in the file (`rope_parameters.`).

    Of several objects the later ones win.
    """

    def __init__(self, *objects: Mapping[str, Any], path: str = "") -> None:
        self.raw = {name: value for one in objects for name, value in one.items() if value is not None}
        self.path = path

    def size(self, name: str, default: int | None = None, least: int = 1) -> int:
        """An integer of at least `least`."""
        value = self.raw.get(name, default)
        if value is None:
            raise ConfigError(f"{self.path}{name}: is missing from config.json")
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{self.path}{name}: must be an integer of at least {least}, found {value!r:.60}")
        return value

    def number(self, name: str, default: float | None = None, most: float = math.inf) -> float:
        """A finite number above 0 and not above `most`."""
        value = self.raw.get(name, default)
        if value is None:
            raise ConfigError(f"{self.path}{name}: is missing from config.json")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= min(most, 1e30):
            upper = f" and at most {most:g}" if most < math.inf else ""
            raise ConfigError(f"{self.path}{name}: must be a number above 0{upper}, found {value!r:.60}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.raw.get(name, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.path}{name}: must be true or false, found {value!r:.60}")
        return value

    def sizes(self, name: str) -> tuple[int, ...]:
        """A list of integers of at least 0; empty if the field is absent or null."""
        value = self.raw.get(name, [])
        if not isinstance(value, list) or any(not isinstance(v, int) or isinstance(v, bool) or v < 0 for v in value):
            raise ConfigError(f"{self.path}{name}: must be a list of integers, found {value!r:.60}")
        return tuple(value)

    def nested(self, name: str) -> Fields | None:
        """A nested object, or None if the field is absent, null or empty."""
        value = self.raw.get(name, {})
        if value == {}:
            return None
        if not isinstance(value, Mapping):
            raise ConfigError(f"{self.path}{name}: must be an object, found {value!r:.60}")
        return Fields(value, path=f"{self.path}{name}.")

    def only(self, name: str, expected: object) -> None:
        """Raises ConfigError if the field is there with another value than the one that the engine computes with."""
        if self.raw.get(name, expected) != expected:
            raise ConfigError(f"{self.path}{name}: only {expected!r} is supported, found {self.raw[name]!r:.60}")
