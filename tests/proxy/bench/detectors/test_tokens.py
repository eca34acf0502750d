"""Text is cut without loss, the same way everywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.bench.detectors.tokens import embedded, pieces

TEXT = 'It\'s 2026:\n\n    def naïve_name(x):  # 123 words\n\treturn "日本" + x\n'


@given(st.text(max_size=200))
def test_the_pieces_are_the_text(text: str) -> None:
    assert "".join(piece for _, piece in pieces(text)) == text


def test_words_take_their_blank_and_digits_stand_alone() -> None:
    assert [piece for _, piece in pieces("so we count 46 internationally.\n\nOk")] == [
        *("so", " we", " count", " ", "4", "6", " intern", "ationa", "lly", ".\n\n", "Ok")
    ]


def test_equal_texts_have_equal_ids() -> None:
    ids = {piece: token for token, piece in pieces(TEXT)}
    assert all(ids[piece] == token for token, piece in pieces(TEXT * 3) if piece in ids)


def test_the_embedded_tokenizer_loses_nothing() -> None:
    pytest.importorskip("tokenizers")
    assert "".join(piece for _, piece in embedded()(TEXT)) == TEXT
