"""How a request wants to be decoded, in the words of all APIs: the fields `speculative` and `kv`.

Must not: know what the served model can do (`proxy.server.asked_mode` does).
Invariant: what is read names a drafter and a codec that exist, or the request is refused by the field at fault.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from pydantic import Field, StrictBool, StrictInt

from policies.modes import ALIASES, CODECS
from proxy.conversation import Decoding
from proxy.wire.body import Loose, SamplingFields, brief, refuse

DRAFTERS = ("mtp", "ngram")
NAMES = {"ngram-mod": "ngram", "draft-mtp": "mtp"}
"""What llama.cpp calls them."""
FIELDS = ("enabled", "types", "n_max")
AS_THE_SERVER = Decoding()
MOST_CHARS = 48
"""Of a client's word that are looked at; all ours are shorter, and comparing megabytes takes seconds."""


class Speculative(Loose):
    """enabled: false = plain decoding, whatever else is said. types: who may draft, a list or joined with `+`; absent
    = the server's. n_max: most draft tokens per step; the pace may choose fewer."""

    enabled: StrictBool | None = None
    types: str | list[str] | None = None
    n_max: StrictInt | None = Field(default=None, ge=0)


class GenerationFields(SamplingFields):
    """How tokens are chosen and computed, on all APIs. kv: the codec of the KV cache."""

    speculative: Speculative | None = None
    kv: str | None = None

    def decoding(self) -> Decoding:
        """What the fields ask for; those that are absent or null ask for nothing."""
        if self.speculative is None and self.kv is None:
            return AS_THE_SERVER
        wanted = self.speculative or Speculative()
        for name in wanted.unknown:
            refuse(f"speculative.{name[:MOST_CHARS]}", f"is unknown{_nearest(name, FIELDS)}; use {_listed(FIELDS)}")
        drafter = None if wanted.types is None else _drafter(wanted.types)
        if wanted.enabled is False or wanted.n_max == 0:
            return Decoding("none", _codec(self.kv))
        if drafter == "none" and wanted.enabled:
            refuse("speculative.types", f"names no drafter, but `enabled` is true; use {_listed(DRAFTERS)}")
        if drafter is None and wanted.enabled:
            drafter = "any"
        return Decoding(drafter, _codec(self.kv), wanted.n_max)


def _drafter(types: str | Sequence[str]) -> str:
    names = [part.strip() for part in types.split("+")] if isinstance(types, str) else list(types)
    chosen = {NAMES.get(name, name) for name in names}
    known = (*DRAFTERS, "none")
    for name in names:
        if NAMES.get(name, name) not in known:
            _unknown("speculative.types", name, (*known, *NAMES), known)
    if not chosen or ("none" in chosen and len(chosen) > 1):
        refuse("speculative.types", f"{brief(types)} is no choice; use {_listed(DRAFTERS)} or both, or 'none' alone")
    return "+".join(name for name in DRAFTERS if name in chosen) or "none"


def _codec(name: str | None) -> str | None:
    if name is None:
        return None
    codec = ALIASES.get(name, name)
    if codec not in CODECS:
        _unknown("kv", name, (*CODECS, *ALIASES), CODECS)
    return codec


def _unknown(field: str, name: Any, similar: Iterable[str], known: Sequence[str]) -> NoReturn:
    refuse(field, f"{brief(name)} is unknown{_nearest(name, similar)}; use one of {_listed(known)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name[:MOST_CHARS].lower(), list(known), 1, 0.5)
    return f", did you mean {found[0]!r}?" if found else ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
