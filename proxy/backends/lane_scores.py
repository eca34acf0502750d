"""Which of a chunk's scored tokens say its text: the others are markup that the server took out, thoughts, or calls.

Must not: score a token with what was told of another one.
Invariant: the bytes of the entries that are found are those of the text, whole, in one run.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from itertools import accumulate

from detectors.parts import Part
from proxy.lanes.chunks import Scored

MOST_TRIES = 64
"""Places at which a text may stand without being a run of whole tokens."""


def text_span(parts: Sequence[Part], scored: Sequence[Scored]) -> tuple[int, int] | None:
    """The entries of the text, first and one behind the last; None where they cannot be told. Thoughts come first."""
    texts = [place for place, part in enumerate(parts) if part.channel == "text"]
    if not texts or not scored or texts[-1] - texts[0] >= len(texts):
        return None
    text = "".join(parts[place].text for place in texts).encode("utf-8", "surrogatepass")
    thought = sum(len(part.text.encode("utf-8", "surrogatepass")) for part in parts[: texts[0]])
    edges = {end: number for number, end in enumerate(accumulate((len(each.data) for each in scored), initial=0))}
    told = b"".join(each.data for each in scored)
    at = told.find(text, thought)
    for _ in range(MOST_TRIES):
        if at < 0 or (at in edges and at + len(text) in edges):
            break
        at = told.find(text, at + 1)
    else:
        return None
    return None if at < 0 else (edges[at], edges[at + len(text)])


def spelt(scored: Sequence[Scored]) -> Iterator[str]:
    """What each of them completes of their text."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")
    for each in scored:
        yield decoder.decode(each.data)


def is_part_of_character(entry: Scored) -> bool:
    """Does it belong to a text that comes later?"""
    try:
        entry.data.decode()
    except UnicodeDecodeError:
        return True
    return False
