"""The flags: what they default to, and that wrong ones are refused before anything runs."""

from __future__ import annotations

import argparse

import pytest

from engine.bench.arguments import Options, add_arguments


def parse(*arguments: str) -> Options:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return Options.of(parser.parse_args(list(arguments)))


def test_defaults_are_those_of_options() -> None:
    assert parse() == Options()


def test_flags_arrive() -> None:
    options = parse(
        "--only", "agent", "--only", "reuse", "--no-peer", "--quick", "--shape", "qwen3.6-27b", "--layers", "4", "--kv"
    )
    assert options == Options(only=("agent", "reuse"), peer=False, quick=True, shape="qwen3.6-27b", layers=4, kv=True)


@pytest.mark.parametrize("wrong", [("--only", "chess"), ("--threads", "0"), ("--layers", "x"), ("--shape", "gpt")])
def test_wrong_flags_are_refused(wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(*wrong)
    assert wrong[0] in capsys.readouterr().err
