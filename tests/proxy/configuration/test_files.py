"""What is said of a file that cannot be read: its name, why, and what to do; never a number of an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.configuration.config import ConfigProblem
from proxy.configuration.files import text_of


def test_a_text_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes("x = 'ü'\n".encode())
    assert text_of(file) == "x = 'ü'\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no such file; name one that is there, or none"),
        ("directory", "cannot be read: it is a directory; name the TOML file itself"),
        (
            b"abc\xff\xfe",
            "cannot be read: byte 4 is no UTF-8, as of a binary file or another encoding; name a TOML file",
        ),
        ("long", "cannot be read: File name too long; name a TOML file that may be read"),
        ("null", "cannot be read: embedded null byte; name a TOML file that may be read"),
    ],
)
def test_every_problem_has_a_name_and_a_remedy(tmp_path: Path, content: bytes | str | None, words: str) -> None:
    file = tmp_path / "a.toml"
    if content == "directory":
        file.mkdir()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "long":
        file = tmp_path / ("a" * 300)
    elif content == "null":
        file = tmp_path / "a\0b"
    with pytest.raises(ConfigProblem) as caught:
        text_of(file, ", or none")
    assert str(caught.value).startswith(f"{file}: {words}")
    assert "Errno" not in str(caught.value)
