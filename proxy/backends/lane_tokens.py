"""Chunks of a lane as tokens: an id for each, and what it says.

Must not: judge, or lose or repeat anything that was said.
Invariant: the joined parts of the tokens are those of the chunks, in their order; ids that a lane tells are passed on
as they are, ids that are made depend on the text alone.

What a chunk says is cut into pieces of about a token and put on its last tokens, so that a response can be taken back
to between them; which token says what can only be guessed. Some servers tell a step's ids only in the last of several
chunks; what came before waits for it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from detectors.parts import Part
from proxy.backends.base import Alternative, Token
from proxy.backends.lane_scores import is_part_of_character, spelt, text_span
from proxy.lanes.chunks import Chunk, Scored

_PIECES = re.compile(r"[^\S\n]?[^\W_]{1,4}|\n{1,64}|[^\S\n]{1,64}|[^\w\s]|_", re.DOTALL)
"""About what a tokenizer would make of it."""
_LONG = 32_768
"""Characters in one chunk above which its pieces are longer, or a chunk of a megabyte would keep everybody waiting."""
_LONG_PIECES = re.compile(r".{1,64}", re.DOTALL)
WAITING = 4
"""Chunks without ids that wait for one with ids, at most."""
MADE = 1 << 31
"""Ids that are made begin here, beyond those of any vocabulary."""


class LaneTokens:
    """Of one stream. tells_ids: the lane has shown that it tells them."""

    def __init__(self, tells_ids: bool) -> None:
        self._tells_ids = tells_ids
        self._waiting: list[Part] = []
        self._scored: list[Scored] = []  # of what waits
        self._chunks = 0

    def take(self, chunk: Chunk, ends_turn: bool = False) -> list[Token]:
        """The tokens of a chunk. ends_turn: its last id is that of the end of the turn, if it says nothing."""
        parts = _parts(chunk)
        ids = chunk.token_ids
        if ids is None or not self._tells_ids:
            if self._tells_ids and parts and self._chunks < WAITING and chunk.finish is None:
                self._waiting += parts
                self._scored += chunk.scored
                self._chunks += 1
                return []
            return [*self.finish(), *_made(parts, chunk.scored)]
        parts, scored = [*self._waiting, *parts], (*self._scored, *chunk.scored)
        self._waiting, self._scored, self._chunks = [], [], 0
        if ends_turn and ids:
            ids = ids[:-1]
        if not ids:
            return list(_made(parts, scored))
        if len(parts) == 1 and not scored and parts[0].text and not parts[0].name:
            return _spread(ids, parts[0])
        return _scored(ids, parts, scored) or list(_placed(ids, parts, scored))

    def finish(self) -> list[Token]:
        """What still waits."""
        parts, scored = self._waiting, tuple(self._scored)
        self._waiting, self._scored, self._chunks = [], [], 0
        return list(_made(parts, scored))


def _parts(chunk: Chunk) -> list[Part]:
    parts = []
    if chunk.thinking:
        parts.append(Part("thinking", chunk.thinking))
    if chunk.text:
        parts.append(Part("text", chunk.text))
    parts += [Part("call", call.arguments, call.index, call.name) for call in chunk.calls]
    return parts


def _spread(ids: tuple[int, ...], part: Part) -> list[Token]:
    """As `_placed` has it, for what nearly every chunk is: a piece of one channel."""
    channel, text, index = part.channel, part.text, part.index
    if len(ids) == 1:
        return [Token(ids[0], text, parts=(part,))]
    pieces = _pieces(text)
    first = max(1, len(pieces) - len(ids) + 1)
    texts = ["".join(pieces[:first]), *pieces[first:]] if first > 1 else pieces
    silent = len(ids) - len(texts)
    tokens = [Token(number, "", parts=()) for number in ids[:silent]]
    for number, said in zip(ids[silent:], texts, strict=True):
        tokens.append(Token(number, said, parts=(Part(channel, said, index),)))
    return tokens


def _scored(ids: tuple[int, ...], parts: list[Part], scored: tuple[Scored, ...]) -> list[Token]:
    """Where it is known which tokens say the text; empty where not."""
    if (span := text_span(parts, scored)) is None or span[1] > len(ids):
        return []
    first, last = span
    texts = [place for place, part in enumerate(parts) if part.channel == "text"]
    before, behind = parts[: texts[0]], parts[texts[-1] + 1 :]
    said = [[Part("text", piece)] if piece else [] for piece in spelt(scored[first:last])]
    if before and not first:
        said[0] = [*before, *said[0]]
    if behind and last == len(ids):
        said[-1] += behind
    tokens = list(_placed(ids[:first], before, ())) if first else []
    tokens += [
        _token(number, tuple(each), entry)
        for number, each, entry in zip(ids[first:last], said, scored[first:last], strict=True)
    ]
    return [*tokens, *_placed(ids[last:], behind, ())] if last < len(ids) else tokens


def _placed(ids: tuple[int, ...], parts: list[Part], scored: tuple[Scored, ...]) -> Iterator[Token]:
    if len(parts) == 1 and len(scored) == len(ids) and "".join(each.text for each in scored) == parts[0].text:
        parts = [Part(parts[0].channel, each.text, parts[0].index, parts[0].name) for each in scored]
    elif len(parts) == 1 and len(ids) > 1:
        parts = _cut(parts[0], len(ids))
    silent = max(0, len(ids) - len(parts))
    crowded = max(0, len(parts) - len(ids))
    for place, number in enumerate(ids):
        first = place - silent
        said = () if first < 0 else tuple(parts[: crowded + 1] if first == 0 else parts[crowded + first :][:1])
        entry = scored[place] if len(scored) == len(ids) else None
        if entry is not None and not said and not is_part_of_character(entry):
            entry = None  # markup that the server took out
        yield _token(number, said, entry)


def _cut(part: Part, most: int) -> list[Part]:
    """In at most so many pieces, the last of them the smallest."""
    pieces = _pieces(part.text)
    if part.name or len(pieces) < 2:
        return [part]
    first = max(1, len(pieces) - most + 1)
    return [Part(part.channel, text, part.index) for text in ("".join(pieces[:first]), *pieces[first:])]


def _made(parts: list[Part], scored: tuple[Scored, ...]) -> Iterator[Token]:
    """Tokens whose ids are made from the text."""
    if len(parts) == 1 and scored and "".join(each.text for each in scored) == parts[0].text:
        for each in scored:
            yield _token(_made_id(each.text), (Part(parts[0].channel, each.text),), each)
        return
    if (span := text_span(parts, scored)) is not None:
        texts = [place for place, part in enumerate(parts) if part.channel == "text"]
        yield from _made(parts[: texts[0]], ())
        run = scored[slice(*span)]
        for piece, each in zip(spelt(run), run, strict=True):
            yield _token(_made_id(each.text), (Part("text", piece),) if piece else (), each)
        yield from _made(parts[texts[-1] + 1 :], ())
        return
    for part in parts:
        pieces = _pieces(part.text) or [""]
        for place, piece in enumerate(pieces):
            said = Part(part.channel, piece, part.index, part.name if place == 0 else "")
            yield _token(_made_id(piece or part.name), (said,), None)


def _pieces(text: str) -> list[str]:
    return (_LONG_PIECES if len(text) > _LONG else _PIECES).findall(text)


def _made_id(text: str) -> int:
    return MADE + (zlib.crc32(text.encode("utf-8", "surrogatepass")) & 0x3FFFFFFF)


def _token(number: int, parts: tuple[Part, ...], scored: Scored | None) -> Token:
    text = parts[0].text if len(parts) == 1 else "".join(part.text for part in parts)
    if scored is None:
        return Token(number, text, parts=parts)
    top = tuple(Alternative(0, data, logprob) for data, logprob in scored.top)
    return Token(number, text, scored.logprob, data=scored.data, top=top, parts=parts)
