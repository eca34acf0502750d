"""The corpus is read to its end or to where it was stopped, by one process as by several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from detectors.finding import Grade
from proxy.bench.detectors import corpus, survey
from proxy.bench.detectors.corpus import File
from proxy.bench.detectors.survey import CATEGORIES, Survey, read_files
from tests.detectors.test_channel_loops import WORDS, prose

STUCK = "The next thing is to look at the file again. " * 200


@pytest.fixture
def files(tmp_path: Path) -> list[File]:
    """Prose, a stuck text, data, and two sources of which one is a table."""
    pairs = [(first, second) for first in WORDS for second in WORDS if first < second]
    written = {
        "a.md": prose(600),
        "b.txt": STUCK,
        "c.txt": "".join(f"{i * 7919 % 10007} {i * 104729 % 9973}\n" for i in range(600)),
        "d.py": "\n\n".join(f"def {a}({b}):\n    return {b}[{i}] + {a[::-1]}" for i, (a, b) in enumerate(pairs)),
        "e.py": "TABLE = [\n" + "    (0, 0, 0),\n" * 600 + "]\n",
    }
    for name, text in written.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = sorted((tmp_path / name for name in written), key=lambda path: path.name)
    return [File(p, p.name, "code" if p.suffix == ".py" else "text", "elsewhere", p.stat().st_size) for p in found]


def test_every_file_is_counted_in_its_ways(files: list[File]) -> None:
    found = survey.survey(files, 1, lambda _: None)
    assert found.complete and found.read == sum(file.size for file in files)
    assert {name: found.count(name).documents for name in CATEGORIES if "embedded" not in name} == {
        "prose": 2,
        "code, fenced": 2,
        "code, bare": 2,
        "arguments": 2,
        "data": 1,
    }
    assert [found.count(name).at_least(Grade.FALLBACK) for name in ("prose", "code, bare", "arguments")] == [1, 1, 1]
    flagged = {(alarm.category, alarm.file, alarm.detector, alarm.grade) for alarm in found.alarms}
    assert ("prose", "b.txt", "period", "abort") in flagged
    assert {file for _, file, _, _ in flagged} == {"b.txt", "e.py"}


def test_the_number_of_processes_does_not_matter(files: list[File], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "BATCH_BYTES", 5000)
    assert survey.survey(files, 2, lambda _: None) == survey.survey(files, 1, lambda _: None)


def test_what_was_read_when_it_is_stopped_is_kept(files: list[File], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "BATCH_BYTES", 1)
    told: list[str] = []

    def interrupted(batch: Sequence[File]) -> Survey:
        if batch[0].name == "c.txt":
            raise KeyboardInterrupt
        return read_files(batch)

    monkeypatch.setattr(survey, "read_files", interrupted)
    found = survey.survey(files, 1, told.append)
    assert not found.complete
    assert (found.read, found.of) == (sum(f.size for f in files[:2]), sum(f.size for f in files))
    assert found.count("prose").documents == 2
    assert "stopped" in told[-1]


def test_progress_is_told(files: list[File], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "BATCH_BYTES", 1)
    monkeypatch.setattr(survey, "TOLD_EVERY_S", 0.0)
    told: list[str] = []
    survey.survey(files, 1, told.append)
    assert len(told) == len(files)
    assert told[-1].startswith("corpus: 100% of") and "about 0 s left" in told[-1]


def test_parts_are_summed() -> None:
    found, other = Survey(of=2), Survey(read=1)
    found.add(File(Path("a"), "a", "text", "held out", 1), "prose", [(1, " word")] * 2, "text")
    other.add(File(Path("b"), "b", "text", "elsewhere", 1), "prose", [(1, " word")] * 3, "text")
    found.merge(other)
    assert [found.count("prose", *parts).tokens for parts in ((), ("held out",), ("elsewhere",))] == [5, 2, 3]
    assert found.count("data").documents == 0 and not found.complete


def test_some_of_the_standard_library_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "packages", lambda: tmp_path)
    files = [file for file in corpus.find() if file.size < 40_000]
    sources = [file for file in files if file.kind == "code"][:24]
    found = read_files([*sources, *[file for file in files if file.kind == "docstrings"][:400]])
    assert found.count("code, bare").documents == 24 and found.count("prose").documents > 9
    assert found.alarms == []


def test_docstrings_are_read_as_prose(tmp_path: Path) -> None:
    """The long ones, each for itself; one that is copied counts once."""
    path, one, other = tmp_path / "m.py", prose(500), prose(500, 2)
    functions = "".join(f'def f{i}():\n    """{text}"""\n\n' for i, text in enumerate((other, other, "short")))
    path.write_text(f'"""{one}"""\n\n{functions}', encoding="utf-8")
    assert [text.strip() for text in corpus.docstrings_of(path)] == [one.strip(), other.strip()]
    assert read_files([File(path, "m.py", "docstrings", "chosen on", 1)]).count("prose", "chosen on").documents == 2
