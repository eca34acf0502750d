"""The agent's tools on a real directory: what they answer, what they refuse, and that nothing makes them raise."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from examples.agent import protocol, workspace
from examples.agent.workspace import Workspace

CODE = "def total(a, b):\n    return a - b\n"
TESTS = "from total import total\n\n\ndef test_total():\n    assert total(2, 3) == 5\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository in `repository`, and a file outside it."""
    (tmp_path / "secret.py").write_text("SECRET = 1\n")
    repository = tmp_path / "repository"
    (repository / "inner").mkdir(parents=True)
    (repository / "total.py").write_text(CODE)
    (repository / "test_total.py").write_text(TESTS)
    (repository / "notes.txt").write_text("x\n")
    (repository / "inner" / "deep.py").write_text("DEEP = 1\n")
    return repository


def test_files_are_the_python_files_in_order(folder: Path) -> None:
    assert Workspace(folder).files() == ["test_total.py", "total.py"]


def test_read_file_shows_the_text_without_its_last_newline(folder: Path) -> None:
    work = Workspace(folder)
    assert work.call("read_file", {"path": "total.py"}) == CODE.rstrip("\n")
    assert work.call("read_file", {"path": "inner/deep.py"}) == "DEEP = 1"


def test_a_long_file_is_cut(folder: Path) -> None:
    (folder / "long.py").write_text("x" * (protocol.MAX_RESULT_CHARS + 1))
    assert Workspace(folder).read_file("long.py") == "x" * protocol.MAX_RESULT_CHARS


@pytest.mark.parametrize(
    "path",
    [
        "../secret.py",
        "inner/../../secret.py",
        "link.py",
        "linked/secret.py",
        "missing.py",
        "inner",
        ".",
        "",
        "a\0b",
        "x" * 5000,
        "\ud800.py",
        "ring.py",
    ],
)
def test_a_path_that_leaves_the_directory_or_is_no_file_is_not_found(folder: Path, path: str) -> None:
    (folder / "link.py").symlink_to(folder.parent / "secret.py")
    (folder / "linked").symlink_to(folder.parent)
    (folder / "ring.py").symlink_to(folder / "ring.py")
    work = Workspace(folder)
    answer = protocol.not_found(path, work.files())
    assert work.call("read_file", {"path": path}) == answer
    assert work.call("edit_file", {"path": path, "old_string": "SECRET", "new_string": "TAKEN"}) == answer
    assert (folder.parent / "secret.py").read_text() == "SECRET = 1\n"


def test_an_absolute_path_is_refused_outside_and_allowed_inside(folder: Path) -> None:
    work = Workspace(folder)
    outside = str(folder.parent / "secret.py")
    assert work.read_file(outside) == protocol.not_found(outside, work.files())
    assert work.read_file(str(folder / "total.py")) == CODE.rstrip("\n")


def test_a_directory_whose_name_only_begins_alike_is_outside(folder: Path) -> None:
    neighbour = folder.with_name("repository2")
    neighbour.mkdir()
    (neighbour / "other.py").write_text("OTHER = 1\n")
    assert Workspace(folder).read_file("../repository2/other.py").startswith("error: no file")


def test_a_link_that_stays_inside_may_be_read(folder: Path) -> None:
    (folder / "alias.py").symlink_to(folder / "total.py")
    assert Workspace(folder).read_file("alias.py") == CODE.rstrip("\n")


def test_edit_replaces_the_one_match_and_nothing_else(folder: Path) -> None:
    arguments = {"path": "total.py", "old_string": "a - b", "new_string": "a + b"}
    assert Workspace(folder).call("edit_file", arguments) == "edited total.py"
    assert (folder / "total.py").read_text() == CODE.replace("a - b", "a + b")


@pytest.mark.parametrize(
    ("old", "answer"),
    [
        ("a * b", "error: old_string not found in total.py"),
        ("", "error: old_string not found in total.py"),
        ("a", "error: old_string occurs 3 times in total.py"),
    ],
)
def test_edit_with_no_or_several_matches_changes_nothing(folder: Path, old: str, answer: str) -> None:
    assert Workspace(folder).edit_file("total.py", old, "x") == answer
    assert (folder / "total.py").read_text() == CODE


def test_missing_arguments_are_answered(folder: Path) -> None:
    work = Workspace(folder)
    assert work.call("read_file", {}).startswith("error: no file ")
    assert work.call("edit_file", {"path": "total.py"}) == "error: old_string not found in total.py"
    assert work.call("edit_file", {"path": ["total.py"], "old_string": 1}).startswith("error: no file")
    assert work.call("delete_file", {"path": "total.py"}) == "error: no tool delete_file"


def test_an_edit_keeps_the_line_ends_of_the_file(folder: Path) -> None:
    (folder / "ends.py").write_bytes(b"a = 1\r\nb = 2\r\n")
    call = {"path": "ends.py", "old_string": "a = 1\nb", "new_string": "a = 3\nb"}
    assert Workspace(folder).call("edit_file", call) == "edited ends.py"
    assert (folder / "ends.py").read_bytes() == b"a = 3\r\nb = 2\r\n"


def test_text_that_cannot_be_written_leaves_the_file_as_it_is(folder: Path) -> None:
    answer = Workspace(folder).edit_file("total.py", "a - b", "'\ud800'")
    assert answer == "error: total.py cannot be written with this new_string"
    assert (folder / "total.py").read_text() == CODE


def test_a_file_that_is_no_text_is_answered(folder: Path) -> None:
    (folder / "blob.py").write_bytes(b"\xff\xfe\x00")
    work = Workspace(folder)
    assert work.read_file("blob.py") == "error: blob.py is not a text file"
    assert work.edit_file("blob.py", "x", "y") == "error: blob.py is not a text file"


def test_run_tests_reports_the_failure_and_then_the_repair(folder: Path) -> None:
    work = Workspace(folder)
    failure = protocol.failure("test_total", "assert total(2, 3) == 5", "got -1")
    assert work.call("run_tests", {}) == protocol.summary([failure], 0)
    work.edit_file("total.py", "a - b", "a + b")
    assert work.call("run_tests", {}) == "1 passed"


def test_running_tests_leaves_no_files_behind(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    Workspace(folder).run_tests()
    assert sorted(folder.rglob("*")) == before


def test_an_endless_loop_ends_in_a_timeout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "TEST_TIMEOUT_S", 1)
    (folder / "total.py").write_text("def total(a, b):\n    while True:\n        pass\n")
    assert Workspace(folder).run_tests() == "error: the tests ran longer than 1 s"


def test_what_the_tests_started_ends_with_them(folder: Path) -> None:
    """A child of the tested code would write this file after two seconds."""
    child = f"import time, pathlib; time.sleep(2); pathlib.Path({str(folder / 'late')!r}).touch()"
    (folder / "total.py").write_text(
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.DEVNULL)\n"
        "def total(a, b):\n    return a + b\n"
    )
    assert Workspace(folder).run_tests() == "1 passed"
    time.sleep(4)
    assert not (folder / "late").exists()


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos._exit(0)",
        "import os\nos.write(1, b'5\\n')\nos._exit(0)",
        "import os\nos.write(1, b'{}\\n')\nos._exit(0)",
        "import os\nos.write(1, b'\\xff\\xfe\\n')\nos._exit(0)",
        "import atexit\natexit.register(print, 7)",
        "raise KeyboardInterrupt",
    ],
)
def test_code_that_spoils_the_report_is_an_error_and_never_a_pass(folder: Path, code: str) -> None:
    (folder / "total.py").write_text(f"{code}\n\n\ndef total(a, b):\n    return a + b\n")
    assert Workspace(folder).run_tests() == "error: the tests could not be run"


def test_the_package_of_the_agent_is_not_in_reach_of_the_tests(folder: Path) -> None:
    """The tests run isolated: neither this project nor the caller's directory is on their path."""
    (folder / "total.py").write_text("import protocol\n")
    assert "ModuleNotFoundError: No module named 'protocol'" in Workspace(folder).run_tests()
