"""What a string may still become, byte by byte and inside an escape."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from detectors.json_stream.strings import can_be, can_become, can_go_on, candidates, characters

OPTIONS = sorted(text.encode() for text in ("read", "reader", "write", "é", "😀x"))


def test_candidates_share_the_beginning() -> None:
    assert list(candidates(OPTIONS, b"rea")) == [b"read", b"reader"]
    assert list(candidates(OPTIONS, b"x")) == []
    assert len(list(candidates(OPTIONS, b""))) == 5


def test_taken_options_do_not_count() -> None:
    assert can_become(OPTIONS, b"read", {"read"})
    assert not can_become(OPTIONS, b"reade", {"reader"})
    assert can_be(OPTIONS, b"read")
    assert not can_be(OPTIONS, b"read", {"read"})
    assert not can_be(OPTIONS, b"rea")


def test_a_byte_inside_a_character_decides() -> None:
    assert can_become(OPTIONS, b"\xc3")
    assert not can_become(OPTIONS, b"\xc4")


def test_units_of_an_escape() -> None:
    assert can_go_on(OPTIONS, b"", 0, 0x0000, 0x00FF)  # é and letters
    assert not can_go_on(OPTIONS, b"", 0, 0x0100, 0xD7FF)
    assert can_go_on(OPTIONS, b"", 0, 0xD83D, 0xD83D)  # the first half of the emoji
    assert can_go_on(OPTIONS, b"", 0xD83D, 0xDE00, 0xDE00)
    assert not can_go_on(OPTIONS, b"", 0xD83D, 0xDE01, 0xDFFF)
    assert not can_go_on(OPTIONS, b"write", 0, 0, 0xFFFF)
    assert not can_go_on(OPTIONS, b"", 0, 0x0000, 0x00FF, {"read", "reader", "write", "é"})


@given(st.text(), st.data())
def test_characters_are_counted_where_they_begin(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    at = data.draw(st.integers(0, len(raw)))
    assert characters(raw[:at]) + characters(raw[at:]) == characters(raw) == len(text)
