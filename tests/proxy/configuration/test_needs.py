"""What `specguard check-config` calls right, `specguard serve` takes: both refuse what is not on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.commands.main import main


@pytest.mark.parametrize("command", [["check-config"], ["serve", "--config"]])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[model]\npath = "{0}/none"', "model.path: there is no folder"),
        ('[incidents]\npath = "{0}"', "incidents.path: {0} is a folder; name a file in it"),
        ('plant = "nothing-like-it"', "plant: there is no fault 'nothing-like-it'; known faults: "),
        ('[trust]\nqualification = "{0}/none.json"', "trust.qualification: {0}/none.json cannot be read (No such"),
        ('[trust]\nqualification = "{0}/mine.toml"', "trust.qualification: {0}/mine.toml: "),
        ("a = {deep}", "mine.toml: is nested too deeply"),
        ("a = {long}", "mine.toml: cannot be read as TOML: "),
        ('[lanes.fast]\nurl = "http://h"\nkey_env = "NO_SUCH_KEY"', "lanes.fast.key_env: the environment variable NO_"),
        (
            '[lanes.fast]\nurl = "http://h"\n[lanes.plain]\nurl = "http://i"\nkey_env = "NO_SUCH_KEY"',
            "lanes.plain.key_env: the environment variable NO_SUCH_KEY is not set; put the server's key into it",
        ),
        ('[guard]\npolicy = "{0}/policy.toml"', "policy.toml: cannot be read as TOML: "),
    ],
)
def test_what_is_not_here_is_refused_by_both(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str], text: str, words: str
) -> None:
    (tmp_path / "policy.toml").write_text("max_rewinds = " + "9" * 5000)
    file = tmp_path / "mine.toml"
    file.write_text(text.format(tmp_path, deep="[" * 5000 + "]" * 5000, long="9" * 5000))
    assert main([*command, str(file)]) == 2
    assert f"{words.format(tmp_path)}" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["check-config"], ["serve", "--config"]])
@pytest.mark.parametrize("what", ["directory", "binary"])
def test_what_is_no_text_file_is_refused_by_both_with_its_name_and_the_remedy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str], what: str
) -> None:
    file = tmp_path / "mine.toml"
    if what == "directory":
        file.mkdir()
    else:
        file.write_bytes(b"\x7fELF\x02\x01\x01\x00\x9c\xff")
    assert main([*command, str(file)]) == 2
    told = capsys.readouterr().err
    assert (f"{file}: cannot be read: " in told and "name a" in told) or "name the" in told
    assert "Errno" not in told and "codec" not in told and len(told.splitlines()) == 1


def test_a_variable_of_thousands_of_digits_is_refused_in_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECGUARD_SERVER__PORT", "9" * 5000)
    assert main(["check-config"]) == 2
    assert capsys.readouterr().err.startswith("specguard: server.port: ")
