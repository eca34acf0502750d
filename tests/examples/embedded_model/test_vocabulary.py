"""The tokenizer: an exact size, special tokens as single ids, and any text back as it was."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from examples.embedded_model.episodes import make_episode, render
from examples.embedded_model.tasks import Task
from examples.embedded_model.vocabulary import SPECIAL, train_tokenizer
from tests.examples.embedded_model.conftest import SMALL_VOCABULARY

PLAIN = train_tokenizer(256 + len(SPECIAL) + 20, episodes=2)
"""A few merges only: enough for what holds for any text."""


def test_the_vocabulary_has_the_size_that_was_asked_for(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == SMALL_VOCABULARY
    assert sorted(tokenizer.get_vocab().values()) == list(range(SMALL_VOCABULARY))


def test_special_tokens_are_single_ids(tokenizer: Tokenizer) -> None:
    for text in SPECIAL:
        encoded = tokenizer.encode(f"x{text}y")
        assert encoded.tokens[1] == text
        assert len(encoded.ids) == 3
        assert tokenizer.token_to_id(text) == encoded.ids[1]
    decoded = tokenizer.decode(tokenizer.encode("a<|im_end|>b").ids)
    assert decoded == "ab"


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    assert PLAIN.decode(PLAIN.encode(text).ids, skip_special_tokens=False) == text


def test_code_and_other_scripts_come_back(tokenizer: Tokenizer, training_tasks: list[Task]) -> None:
    texts = ["größer als 3 → 日本", "\t\r\n  x\u2028y\x00", " ' 's 'LL  ", "🙂"]
    texts += [content for task in training_tasks[:20] for content in task.files.values()]
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_digits_stand_alone(tokenizer: Tokenizer) -> None:
    assert [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("x1234")] == ["x", "1", "2", "3", "4"]


def test_training_texts_become_short(tokenizer: Tokenizer, training_tasks: list[Task]) -> None:
    """The merges come from such texts: the system turn, the tags and the wordings are few tokens."""
    text = render(make_episode(training_tasks[0], random.Random(0)).messages)
    assert len(tokenizer.encode(text).ids) < 0.6 * len(text)
    assert len(tokenizer.encode("return").ids) <= 2


def test_training_is_repeatable() -> None:
    again = train_tokenizer(256 + len(SPECIAL) + 20, episodes=2)
    assert again.to_str() == PLAIN.to_str()
