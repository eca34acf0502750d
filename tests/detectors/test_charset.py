"""Characters that do not belong: U+FFFD, scripts that the prompt lacks, mixtures; and answers that are foreign."""

# ruff: noqa: RUF001 (letters that look alike are what this is about)

from __future__ import annotations

import sysconfig
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.charset import CharsetDetector, CharsetSettings, script_of, scripts_of
from detectors.finding import Finding, Grade

ENGLISH = scripts_of(["fix the test"])
RUSSIAN = "Это ответ на русском языке, и он довольно длинный. " * 4


def told(text: str, known: frozenset[str] = ENGLISH, settings: CharsetSettings | None = None) -> list[Finding]:
    detector = CharsetDetector(known, settings or CharsetSettings())
    return [f for at, c in enumerate(text) if (f := detector.feed(at, c, "text")) is not None]


def reasons(text: str, known: frozenset[str] = ENGLISH) -> list[str]:
    return [finding.reason for finding in told(text, known)]


@pytest.mark.parametrize(
    ("character", "script"),
    [
        ("a", "LATIN"),
        ("é", "LATIN"),
        ("я", "CYRILLIC"),
        ("λ", "GREEK"),
        ("中", "CJK"),
        ("の", "CJK"),
        ("カ", "CJK"),
        ("한", "HANGUL"),
        ("ع", "ARABIC"),
        ("ไ", "THAI"),
        ("1", ""),
        (" ", ""),
        ("→", ""),
        ("😀", ""),
        ("ﬁ", "LATIN"),
        ("𝑥", ""),
        ("\ufffd", ""),
        ("\ud800", ""),
    ],
)
def test_scripts(character: str, script: str) -> None:
    assert script_of(character) == script


def test_a_broken_character_is_told_once_and_at_once() -> None:
    (finding,) = told("so\ufffd and \ufffd")
    assert (finding.detector, finding.grade, finding.position, finding.began) == ("text.charset", Grade.SUSPECT, 2, 2)
    assert finding.reason == "suspect: U+FFFD"


def test_a_broken_character_of_the_prompt_may_be_quoted() -> None:
    assert told("so\ufffd", scripts_of(["what is \ufffd?"])) == []


def test_another_script_that_stays() -> None:
    (finding,) = told(f"Well. {RUSSIAN}")
    assert finding.reason == "suspect: a script that the prompt lacks"
    assert finding.evidence["scripts"] == {"CYRILLIC": 64}
    assert finding.began == 6


def test_a_script_of_the_prompt_and_latin_belong() -> None:
    assert told(RUSSIAN, scripts_of(["переведи"])) == []
    assert told("def f(x): return x\n" * 40, scripts_of(["重构这个函数"])) == []
    assert told("日本語とカタカナ" * 40, scripts_of(["中文"])) == []


def test_a_few_foreign_words_are_nothing() -> None:
    assert told(f"The word „мир“ is Russian; λ is a letter. {'x' * 600}" * 9) == []


def test_a_mixture_is_found_sooner() -> None:
    (finding,) = told("turqур урнего 中 の نص ع so")
    assert finding.reason == "suspect: several scripts that the prompt lacks"
    assert set(finding.evidence["scripts"]) == {"CYRILLIC", "CJK", "ARABIC"}


def test_letters_far_apart_do_not_add_up() -> None:
    assert told("".join(f"я{'x' * 20}" for _ in range(500))) == []
    assert told("".join(f"я{'x' * 6}" for _ in range(100))) != []


def test_memory_is_bounded_by_the_window() -> None:
    detector = CharsetDetector(ENGLISH)
    for at in range(5000):
        detector.feed(at, "яж中ع", "text")
    assert detector.remembered <= CharsetSettings().window


@given(st.text(st.sampled_from("ab яжλ中ع\ufffd"), max_size=80), st.data())
def test_the_cut_does_not_matter(text: str, data: st.DataObject) -> None:
    settings = CharsetSettings(window=16, letters=8, scripts=2, each=2)
    cuts = sorted({0, len(text), *data.draw(st.lists(st.integers(0, len(text)), max_size=12))})
    pieces = list(pairwise(cuts))
    detector = CharsetDetector(ENGLISH, settings)
    found = [f for n, (a, b) in enumerate(pieces) for f in detector.feed_all(n, text[a:b], "text")]

    def token(at: int) -> int:
        return next(n for n, (a, b) in enumerate(pieces) if a <= at < b)

    assert [(f.position, f.began, f.reason, f.evidence) for f in found] == [
        (token(f.position), token(f.began), f.reason, f.evidence) for f in told(text, settings=settings)
    ]


def scan(paths: list[Path]) -> tuple[int, list[str]]:
    hits = []
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="strict")
        hits += [f"{path.name} {finding.reason}" for finding in told(text)]
    return len(paths), hits


def utf8(paths: list[Path]) -> list[Path]:
    kept = []
    for path in paths:
        try:
            path.read_text(encoding="utf-8", errors="strict")
        except UnicodeDecodeError:
            continue
        kept.append(path)
    return kept


def test_program_text_is_clean() -> None:
    count, hits = scan(utf8(sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:40]))
    assert count > 30
    assert hits == []


@pytest.mark.slow
def test_the_standard_library() -> None:
    """Tables of character sets are made of all scripts, and SUSPECT is all they get."""
    files = [p for p in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")) if "site-packages" not in p.parts]
    count, hits = scan(utf8(files))
    print(count, hits)
    assert count > 500
    assert len(hits) / count < 0.02
