"""The model's own tokenizer, read from its folder: text to ids, and ids to exact bytes.

Must not: render chats, or turn bytes into text (a token may end in the middle of a character; see
detokenizer).
Invariant: the bytes of a run of tokens are the concatenation of each token's bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as _Tokenizer

from engine.errors import ConfigError


class Tokenizer:
    """A byte-level BPE tokenizer. Safe to share between threads.

    vocab_size: highest id + 1; ids from there on are padding of the model's vocabulary and must not be
    sampled. eos_ids: all tokens that end a turn. special_ids: tokens that no plain text contains
    (`<|im_end|>`).
    """

    def __init__(self, backend: _Tokenizer, eos_ids: frozenset[int]) -> None:
        decoder = json.loads(backend.to_str()).get("decoder")
        if not any(part.get("type") == "ByteLevel" for part in _parts(decoder)):
            raise ConfigError("tokenizer.json: its decoder is not ByteLevel; only byte-level BPE is supported")
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocabulary.values(), default=-1) + 1
        self.eos_ids = eos_ids
        self.special_ids = frozenset(token for token, entry in added.items() if entry.special)
        self._bytes = [b""] * self.vocab_size
        for text, token in vocabulary.items():
            self._bytes[token] = _piece_bytes(text)
        for token, entry in added.items():  # these are text as it stands, not in the byte alphabet
            self._bytes[token] = entry.content.encode("utf-8")
        unknown = sorted(token for token in eos_ids if not 0 <= token < self.vocab_size)
        if unknown:
            raise ConfigError(f"eos_token_id: {unknown} are not in the vocabulary of {self.vocab_size} tokens")

    @classmethod
    def load(cls, folder: Path | str) -> Tokenizer:
        """Reads tokenizer.json, and the eos ids from generation_config.json, config.json and
        tokenizer_config.json.

        generation_config.json decides alone where it names any; the other two are combined. Raises
        ConfigError with the file's name if one is missing, broken or not byte-level.
        """
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ConfigError(f"{path.name}: no such file in the model's folder")
        try:
            backend = _Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ConfigError(f"{path.name}: cannot be read: {error}") from error
        return cls(backend, _eos_ids(folder, backend))

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. Special tokens in it are recognised (a rendered chat has them) and none are
        added."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def token_bytes(self, token: int) -> bytes:
        """Exact bytes of one token: an added token gives its text, an unused id nothing.

        Raises ValueError for ids outside 0..vocab_size-1.
        """
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"token {token} is outside the vocabulary of {self.vocab_size}")
        return self._bytes[token]

    def decode(self, tokens: list[int]) -> str:
        """Text of a whole run, special tokens included; invalid UTF-8 becomes U+FFFD."""
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", "replace")

    def token_id(self, text: str) -> int | None:
        """Id of the token that is written exactly like this (`<tool_call>`), or None."""
        found: int | None = self._backend.token_to_id(text)
        return found

    def is_special(self, token: int) -> bool:
        """True for tokens that the tokenizer declares special."""
        return token in self.special_ids


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the model's folder; empty if there is no such file. Raises ConfigError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path.name}: must hold a JSON object")
    return value


def _eos_ids(folder: Path, backend: _Tokenizer) -> frozenset[int]:
    generation = _as_ids("generation_config.json", read_json(folder / "generation_config.json"))
    if generation:
        return generation
    config = read_json(folder / "config.json")
    inner = config.get("text_config")
    ids = set(_as_ids("config.json", inner) if isinstance(inner, dict) else ()) or set(_as_ids("config.json", config))
    name = token_text(read_json(folder / "tokenizer_config.json").get("eos_token"))
    token = backend.token_to_id(name) if name else None
    return frozenset(ids if token is None else ids | {token})


def _as_ids(file: str, config: Mapping[str, Any]) -> frozenset[int]:
    value = config.get("eos_token_id")
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(entry, int) and not isinstance(entry, bool) for entry in values):
        raise ConfigError(f"{file}: eos_token_id must be an integer or a list of integers, not {value!r}")
    return frozenset(values)


def token_text(value: object) -> str | None:
    """A token as tokenizer_config.json writes it: a string, or an object with its string under `content`."""
    content = value.get("content") if isinstance(value, Mapping) else value
    return content if isinstance(content, str) else None


def _parts(decoder: Any) -> Iterator[dict[str, Any]]:
    if isinstance(decoder, dict):
        yield decoder
        for part in decoder.get("decoders", ()):
            yield from _parts(part)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's reversible alphabet: printable Latin-1 stands for itself, the other 68 bytes for U+0100 and
    up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if chr(byte) not in alphabet)
    return alphabet | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _piece_bytes(piece: str) -> bytes:
    """A vocabulary entry is in the byte alphabet; one that is not stands for its own text."""
    try:
        return bytes(_ALPHABET[char] for char in piece)
    except KeyError:
        return piece.encode("utf-8")
