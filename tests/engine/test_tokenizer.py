"""The tokenizer: exact bytes per token, special tokens in text, end-of-turn ids from the model's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from engine.errors import ConfigError
from engine.tokenizer import Tokenizer

CORPUS = ["the quick brown fox, the lazy dog\n", '{"path": "src/é.py", "n": 12}', "日本語 😀 naïve café"] * 4
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def make_folder(folder: Path, **files: Any) -> Path:
    """A small byte-level BPE in Hugging Face layout."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens(SPECIAL)
    backend.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False)])
    backend.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model"), tokenizer_config={"eos_token": "<|im_end|>"})


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


@given(text=st.text(max_size=60))
def test_bytes_of_the_tokens_are_the_text(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert b"".join(tokenizer.token_bytes(token) for token in tokens) == text.encode()
    assert tokenizer.decode(tokens) == text


@given(data=st.data())
def test_any_run_decodes_as_the_library_does(folder: Path, tokenizer: Tokenizer, data: st.DataObject) -> None:
    tokens = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    expected = Backend.from_file(str(folder / "tokenizer.json")).decode(tokens, skip_special_tokens=False)
    assert tokenizer.decode(tokens) == expected


def test_every_byte_has_a_token(tokenizer: Tokenizer) -> None:
    single = {tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)}
    assert {bytes([byte]) for byte in range(256)} <= single


def test_special_tokens_in_text_are_recognised(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("<|im_start|>hi<tool_call><|im_end|>")
    start, call, end = (tokenizer.token_id(text) for text in ("<|im_start|>", "<tool_call>", "<|im_end|>"))
    assert tokens[0] == start
    assert tokens[-2:] == [call, end]
    assert None not in (start, call, end)
    assert tokenizer.token_bytes(tokens[-2]) == b"<tool_call>"
    assert tokenizer.is_special(tokens[0])
    assert not tokenizer.is_special(tokens[-2])
    assert tokenizer.token_id("no such token") is None


def test_no_token_is_added_by_itself(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("") == []


def test_vocab_size_is_highest_id_plus_one(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes(tokenizer.vocab_size - 1) == b"</tool_call>"
    for token in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match="outside the vocabulary"):
            tokenizer.token_bytes(token)


def test_added_tokens_are_text_not_byte_alphabet(tmp_path: Path) -> None:
    path = make_folder(tmp_path) / "tokenizer.json"
    backend = Backend.from_file(str(path))
    backend.add_tokens([AddedToken("<né>", normalized=False)])
    backend.save(str(path))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.decode(tokenizer.encode("a<né>b")) == "a<né>b"


class TestEndOfTurn:
    def names(self, tokenizer: Tokenizer) -> set[bytes]:
        return {tokenizer.token_bytes(token) for token in tokenizer.eos_ids}

    def ids(self, folder: Path) -> dict[str, int]:
        backend = Backend.from_file(str(folder / "tokenizer.json"))
        return {name: backend.token_to_id(name) for name in SPECIAL}

    def test_generation_config_decides(self, tmp_path: Path) -> None:
        make_folder(tmp_path, config={"eos_token_id": 1}, tokenizer_config={"eos_token": "<|im_start|>"})
        ids = self.ids(tmp_path)
        both = {"eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]]}
        (tmp_path / "generation_config.json").write_text(json.dumps(both))
        assert self.names(Tokenizer.load(tmp_path)) == {b"<|im_end|>", b"<|endoftext|>"}

    def test_inner_config_and_tokenizer_config_are_combined(self, tmp_path: Path) -> None:
        make_folder(tmp_path, tokenizer_config={"eos_token": {"content": "<|im_end|>"}})
        inner = {"eos_token_id": 1, "text_config": {"eos_token_id": self.ids(tmp_path)["<|endoftext|>"]}}
        (tmp_path / "config.json").write_text(json.dumps(inner))
        assert self.names(Tokenizer.load(tmp_path)) == {b"<|im_end|>", b"<|endoftext|>"}

    def test_none_at_all(self, tmp_path: Path) -> None:
        assert Tokenizer.load(make_folder(tmp_path)).eos_ids == frozenset()

    @pytest.mark.parametrize("value", ["<|im_end|>", [1, "x"], True, 99_999])
    def test_nonsense_is_refused(self, tmp_path: Path, value: object) -> None:
        make_folder(tmp_path, generation_config={"eos_token_id": value})
        with pytest.raises(ConfigError, match="eos_token_id"):
            Tokenizer.load(tmp_path)


class TestBrokenFolders:
    def test_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"tokenizer\.json"):
            Tokenizer.load(tmp_path)

    def test_broken_tokenizer(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text("{")
        with pytest.raises(ConfigError, match=r"tokenizer\.json"):
            Tokenizer.load(tmp_path)

    @pytest.mark.parametrize("text", ["{", "[]"])
    def test_broken_config(self, tmp_path: Path, text: str) -> None:
        make_folder(tmp_path)
        (tmp_path / "generation_config.json").write_text(text)
        with pytest.raises(ConfigError, match=r"generation_config\.json"):
            Tokenizer.load(tmp_path)

    def test_other_kinds_are_refused(self, tmp_path: Path) -> None:
        backend = Backend(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
        backend.save(str(tmp_path / "tokenizer.json"))
        with pytest.raises(ConfigError, match="ByteLevel"):
            Tokenizer.load(tmp_path)
