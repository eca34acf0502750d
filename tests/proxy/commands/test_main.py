"""The command: what it prints, its exit status, and that a mistake is one clear line and never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.commands.main import COMMANDS, main
from proxy.incidents import IncidentStore
from tests.proxy.incidents.samples import CLOSURE, INCIDENT

ROOT = Path(__file__).parents[3]
LIMIT_S = 100


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three incidents: inc_1, inc_2a, inc_2b."""
    path = tmp_path / "incidents.sqlite"
    writer = IncidentStore(path)
    for name in ("inc_1", "inc_2a", "inc_2b"):
        writer.opened(replace(INCIDENT, id=name, reason="because " * 20))
        writer.closed(replace(CLOSURE, id=name))
    writer.close()
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of a call that must fail with status 2."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err[:11], err[-1]) == ("", "specguard: ", "\n")
    return err[11:-1]


def misused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def helped(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    words = helped(capsys).split()
    assert {"serve", "incidents", "check-config"} <= set(words)
    for arguments in (["serve"], ["incidents", "list"], ["incidents", "show"], ["check-config"]):
        text = helped(capsys, *arguments)
        options = text.partition("\noptions:\n")[2].splitlines()
        for option, below in zip(options, [*options[1:], ""], strict=True):
            explained = len(option.split("  ")) > 2 or below.startswith(" " * 10)
            assert explained or not option.startswith("  -"), f"{arguments}: {option} has no explanation"


def test_every_command_says_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(helped(capsys).split())
    for name, purpose in COMMANDS.items():
        assert f"{name} {purpose}" in text
        assert "usage: specguard " + name in helped(capsys, name)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["env", "--help"], ["incidents", "--help"]])
def test_a_command_does_not_wait_for_what_others_need(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom proxy.commands.main import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        "print([name for name in ('aiohttp', 'torch', 'numpy', 'tokenizers') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    assert ran.stdout.splitlines()[-1] == "[]", ran.stderr


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("specguard ")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "COMMAND"),
        (["dance"], "dance"),
        (["serve", "--port", "http"], "argument --port: invalid int value: 'http'"),
        (["serve", "--mode", "warp"], "argument --mode: unknown drafter 'warp': use one of none, ngram, mtp"),
        (["serve", "--log-level", "loud"], "argument --log-level: invalid choice: 'loud'"),
        (["incidents", "show"], "ID"),
    ],
)
def test_wrong_calls(capsys: pytest.CaptureFixture[str], arguments: list[str], part: str) -> None:
    assert part in misused(capsys, *arguments)


def test_wrong_values(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert refused(capsys, "serve", "--port", 70000).startswith("server.port: ")
    assert "server.keys" in refused(capsys, "serve", "--host", "0.0.0.0")
    message = refused(capsys, "serve", "--model", tmp_path / "nowhere")
    assert message.startswith(f"model.path: there is no folder {tmp_path / 'nowhere'}")
    assert "there is no such file" in refused(capsys, "serve", "--config", tmp_path / "nowhere.toml")


def test_a_configuration_is_checked_and_its_keys_stay_secret(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "specguard.toml"
    file.write_text('[server]\nkeys = ["hidden-1", "hidden-2"]\nport = 9000\n', encoding="utf-8")
    for how in ([], ["--json"]):
        assert main(["check-config", str(file), *how]) == 0
        out = capsys.readouterr().out
        assert "hidden" not in out and "(2 set)" in out
    server = json.loads(out)["server"]
    assert (server["port"], server["keys"]) == (9000, ["(2 set)"])
    file.write_text("[server]\nprot = 1\n", encoding="utf-8")
    assert refused(capsys, "check-config", file) == "server.prot: there is no such key; did you mean 'port'?"


def test_the_list(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    assert main(["incidents", "list", "--incidents", str(store)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["incident", "inc_2b", "inc_2a", "inc_1"]
    assert main(["incidents", "list", "--limit", "1", "--json", "--incidents", str(store)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["id"] == "inc_2b"


def test_one_incident(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    assert main(["incidents", "show", "inc_1", "--incidents", str(store)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("inc_1  ")
    assert "because " * 19 + "because" in out, "lines are not wrapped in a pipe"
    assert main(["incidents", "show", "inc_1", "--json", "--incidents", str(store)]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["closed"]["culprit"] == "speculation"


def test_an_id_may_be_short_but_not_ambiguous(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    assert main(["incidents", "show", "inc_2b"[:6], "--incidents", str(store)]) == 0
    assert main(["incidents", "show", "inc_1"[:5], "--incidents", str(store)]) == 0
    capsys.readouterr()
    message = refused(capsys, "incidents", "show", "inc_2", "--incidents", store)
    assert message.startswith("2 incidents begin with 'inc_2'; write more of the id")
    message = refused(capsys, "incidents", "show", "nope", "--incidents", store)
    assert message == "there is no incident nope; `specguard incidents list` shows which there are"


def test_a_beginning_is_enough(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    writer = IncidentStore(tmp_path / "one.sqlite")
    writer.opened(INCIDENT)
    writer.close()
    assert main(["incidents", "show", "inc", "--incidents", str(writer.path)]) == 0
    assert capsys.readouterr().out.startswith("inc_1  ")


def test_stores_that_are_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    junk, empty = tmp_path / "junk.sqlite", tmp_path / "empty.sqlite"
    junk.write_text("this is no database, and long enough to be told from one\n" * 20, encoding="utf-8")
    empty.touch()
    assert main(["incidents", "list", "--incidents", str(empty)]) == 0
    assert capsys.readouterr().out == "no incidents\n"
    for path in (tmp_path / "nowhere.sqlite", tmp_path):
        message = refused(capsys, "incidents", "list", "--incidents", path)
        assert message.startswith(f"{path}: there is no incident store")
        assert message.endswith("name another with --incidents FILE")
    message = refused(capsys, "incidents", "list", "--incidents", junk)
    assert message.startswith(f"{junk}: cannot be read as an incident store")
    message = refused(capsys, "incidents", "list", "--limit", 0, "--incidents", empty)
    assert message.startswith("--limit: must be from 1 to ")


def test_the_store_is_the_configured_one(capsys: pytest.CaptureFixture[str], tmp_path: Path, store: Path) -> None:
    file = tmp_path / "specguard.toml"
    file.write_text(f"[incidents]\npath = {json.dumps(str(store))}\n", encoding="utf-8")
    assert main(["incidents", "list", "--limit", "1", "--config", str(file)]) == 0
    assert "inc_2b" in capsys.readouterr().out


def test_a_reader_that_leaves_is_no_error(store: Path) -> None:
    command = [sys.executable, "-m", "proxy", "incidents", "list", "--json", "--incidents", str(store)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(LIMIT_S) == 0
