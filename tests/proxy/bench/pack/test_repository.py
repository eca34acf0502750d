"""Tasks from a folder: read within bounds, nothing of it run, the same every time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from proxy.bench.pack import repository
from proxy.bench.pack.repository import read_repository
from proxy.bench.pack.sandbox import same_tree, unknown_names
from proxy.configuration.config import ConfigProblem

CODE = '''"""A module."""

raise SystemExit("it was run")


def total(prices, discount):
    """Add up."""
    result = 0
    for price in prices:
        result += price * discount
    return result
'''


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    for name in ("shop.py", "deep/tax.py", ".git/hidden.py", "node_modules/skipped.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CODE.replace("total", path.stem))
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "latin.py").write_bytes(b"# \xff\n")
    (tmp_path / "huge.py").write_text(CODE + "#" * repository.MOST_BYTES)
    return tmp_path


def test_a_task_is_one_misspelt_name(repo: Path) -> None:
    source = read_repository(repo)
    assert sorted(task.name for task in source.tasks) == ["deep/tax.py: tax", "shop.py: shop"]
    for task in source.tasks:
        [wrong] = unknown_names(task.source)
        assert f"NameError: name '{wrong}' is not defined" in task.output and task.judge == "tree"
        assert not same_tree(task.source, task.fixed) and unknown_names(task.fixed) == ()
        assert "it was run" not in task.source, "the function alone"
    assert {path for path, _ in source.modules} == {"shop.py", "deep/tax.py", "broken.py"}
    assert read_repository(repo) == source
    assert {read_repository(repo, seed).tasks for seed in range(8)} != {source.tasks}


def test_lines_are_counted_as_the_parser_counts_them(tmp_path: Path) -> None:
    """U+2028 and form feeds end lines for `splitlines` alone."""
    code = (
        'def join(values):\n    mark = "\u2028\x0c\u2028"\n'
        '    kept = [\u00e9 for \u00e9 in values if "\u00e9" in \u00e9]\n'
        "    other = (kept, mark)\n    return other, values\n"
    )
    (tmp_path / "join.py").write_text(code, encoding="utf-8")
    for seed in range(6):
        [task] = read_repository(tmp_path, seed).tasks
        lines = [(a, b) for a, b in zip(task.source.split("\n"), task.fixed.split("\n"), strict=True) if a != b]
        assert len(lines) == 1 and lines[0][0].strip() in task.output


def test_a_file_that_the_parser_gives_up_on_is_passed_over(repo: Path) -> None:
    (repo / "deeper.py").write_text("x = " + "-" * 100_000 + "1\n")
    assert len(read_repository(repo).tasks) == 2


def test_links_out_are_not_followed(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.py").write_text(CODE)
    (repo / "link.py").symlink_to(outside / "secret.py")
    (repo / "folder").symlink_to(outside)
    assert not any("secret" in path or "link" in path for path, _ in read_repository(repo).modules)


def test_only_so_many_files_are_read(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no folder is looked into when that many were found, or that is skipped."""
    seen: list[str] = []
    scandir = os.scandir

    def looked(place: Any) -> Any:
        seen.append(Path(place).name)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", looked)
    assert "deep/tax.py" in dict(read_repository(repo).modules)
    assert seen == [repo.name, "deep"]
    seen.clear()
    monkeypatch.setattr(repository, "MOST_FILES", 3)  # broken, huge, latin
    with pytest.raises(ConfigProblem):
        read_repository(repo)
    monkeypatch.setattr(repository, "MOST_FILES", 4)
    assert [path for path, _ in read_repository(repo).modules] == ["broken.py", "shop.py"]


def test_nothing_to_make_tasks_from(tmp_path: Path) -> None:
    with pytest.raises(ConfigProblem, match="has no Python function"):
        read_repository(tmp_path)
    with pytest.raises(ConfigProblem, match="is no folder"):
        read_repository(tmp_path / "nowhere")
