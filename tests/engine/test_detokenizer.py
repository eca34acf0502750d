"""The stream detokenizer: pieces join to the whole decoding, whatever the tokens and the rewinds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from engine.detokenizer import StreamDetokenizer
from engine.tokenizer import Tokenizer

# bytes that begin, continue, break and overrun characters of every length, most of them twice as likely
EDGES = [*b"a{", 0x80, 0x9F, 0xA0, 0xBF, 0xC0, 0xC3, 0xE0, 0xE2, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0xFF]
WORDS = [char.encode() for char in "é€😀"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """256 byte tokens in byte order, then one special and one plain added token."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(0x100 + index) for index, byte in enumerate(others)}
    backend = Backend(models.BPE(vocab={letters[byte]: byte for byte in range(256)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_end|>"])
    backend.add_tokens([AddedToken("<tool_call>", normalized=False)])
    return Tokenizer(backend, frozenset({256}))


TOKENS = st.one_of(
    st.lists(st.one_of(st.integers(0, 257), st.sampled_from(EDGES)), max_size=30),
    st.lists(st.sampled_from([*WORDS, b"\xf0\x9f", b"\xe2", b"a"]), max_size=10).map(
        lambda parts: list(b"".join(parts))
    ),
)


@given(tokens=TOKENS)
@settings(max_examples=400)
def test_pieces_join_to_the_whole(tokenizer: Tokenizer, tokens: list[int]) -> None:
    stream = StreamDetokenizer(tokenizer)
    pieces = [stream.feed(token) for token in tokens]
    released = "".join(pieces)
    assert released + stream.flush() == tokenizer.decode(tokens)


@given(tokens=TOKENS)
def test_every_prefix_is_right_and_holds_back_no_whole_character(tokenizer: Tokenizer, tokens: list[int]) -> None:
    stream, released = StreamDetokenizer(tokenizer), ""
    for count, token in enumerate(tokens, start=1):
        released += stream.feed(token)
        whole = tokenizer.decode(tokens[:count])
        assert whole.startswith(released)
        # Python waits one byte longer than it must after ED A0..BF (a surrogate): two may be held back
        assert whole[len(released) :] in ("", "\ufffd", "\ufffd\ufffd")


@given(tokens=TOKENS, more=TOKENS, data=st.data())
@settings(max_examples=300)
def test_a_rewound_stream_equals_a_fresh_one(
    tokenizer: Tokenizer, tokens: list[int], more: list[int], data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(tokens)))
    stream, fresh = StreamDetokenizer(tokenizer), StreamDetokenizer(tokenizer)
    for token in tokens:
        stream.feed(token)
    if data.draw(st.booleans()):
        stream.flush()
    stream.truncate(count)
    for token in tokens[:count]:
        fresh.feed(token)
    if count < len(tokens):
        assert [stream.feed(token) for token in more] == [fresh.feed(token) for token in more]
    assert len(stream) == len(fresh) if count < len(tokens) else True


def test_a_character_comes_with_its_last_byte(tokenizer: Tokenizer) -> None:
    stream = StreamDetokenizer(tokenizer)
    assert [stream.feed(byte) for byte in "a😀é".encode()] == ["a", "", "", "", "😀", "", "é"]


def test_special_tokens_are_text(tokenizer: Tokenizer) -> None:
    stream = StreamDetokenizer(tokenizer)
    assert [stream.feed(token) for token in (256, 257)] == ["<|im_end|>", "<tool_call>"]


def test_a_cut_character_before_a_special_token(tokenizer: Tokenizer) -> None:
    stream = StreamDetokenizer(tokenizer)
    assert [stream.feed(token) for token in (0xF0, 0x9F, 257)] == ["", "", "\ufffd<tool_call>"]


def test_flush_gives_the_replacement_once(tokenizer: Tokenizer) -> None:
    stream = StreamDetokenizer(tokenizer)
    stream.feed(0xE2)
    assert (stream.flush(), stream.flush()) == ("\ufffd", "")


@pytest.mark.parametrize("count", [-1, 2])
def test_truncate_bounds(tokenizer: Tokenizer, count: int) -> None:
    stream = StreamDetokenizer(tokenizer)
    stream.feed(65)
    with pytest.raises(ValueError, match="go back"):
        stream.truncate(count)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        stream.feed(258)
