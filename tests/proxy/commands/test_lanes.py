"""`specguard lanes`: what it shows, as a table and as JSON, and what it says about lanes that are not there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.commands.main import main
from tests.proxy.lanes.upstreams_of import able
from tests.upstreams.server import Upstream

BAD = able(width=4, speculation="mtp", kv="turboquant_k8v4")


def configured(folder: Path, fast: str, plain: str = "", **keys: str) -> Path:
    file = folder / "specguard.toml"
    lines = ["[lanes.fast]", f'url = "{fast}"', *(f'{name} = "{value}"' for name, value in keys.items())]
    file.write_text("\n".join([*lines, *(["[lanes.plain]", f'url = "{plain}"'] if plain else [])]))
    return file


Show = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Show:
    async def run(file: Path, *flags: str) -> tuple[int, str, str]:
        """In a thread with a loop of its own: the servers answer in this one."""
        status = await asyncio.to_thread(main, ["lanes", "--config", str(file), *flags])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


async def test_two_lanes_as_a_table_and_as_json(tmp_path: Path, shown: Show) -> None:
    async with Upstream("vllm", {"m": BAD}).running() as fast, Upstream("llamacpp", {"m": able()}).running() as plain:
        file = configured(tmp_path, f"{fast.base}/v1", plain.base)
        status, table, errors = await shown(file)
        json_status, text, _ = await shown(file, "--json")
    assert (status, json_status, errors) == (0, 0, "")
    words = ("fast lane", "plain lane", "turboquant_k8v4", "mtp, 3 tokens", "known bad", "vllm-project/vllm#40831")
    for word in (*words, "remedy: serve with fp8 KV", "what it costs", "no drift figure", "the plain lane serves"):
        assert word in table, word
    lanes: list[dict[str, Any]] = json.loads(text)["lanes"]
    assert [lane["capabilities"]["kind"] for lane in lanes] == ["vllm", "llamacpp"]
    assert {row["id"] for row in lanes[0]["known_bad"]} >= {"turboquant-speculation", "turboquant-prefix-cache"}
    assert lanes[1]["known_bad"] == [] and "token_ids" in lanes[1]["missing"]


async def test_a_lane_that_does_not_answer_is_told_and_the_other_one_is_shown(tmp_path: Path, shown: Show) -> None:
    async with Upstream("vllm", {"m": able()}).running() as fast:
        file = configured(tmp_path, fast.base, "http://127.0.0.1:9")
        status, table, errors = await shown(file)
        json_status, text, _ = await shown(file, "--json")
    assert status == json_status == 1
    assert "specguard: lane 'plain' (http://127.0.0.1:9)" in errors and "start the server" in errors
    assert "fast lane" in table and "error" in json.loads(text)["lanes"][1]


async def test_one_lane_and_a_key_that_stays_secret(
    tmp_path: Path, shown: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Upstream("vllm", {"m": able()}, keys=("s3cret",)).running() as fast:
        file = configured(tmp_path, fast.base, key_env="LANE_KEY")
        monkeypatch.setenv("LANE_KEY", "s3cret")
        status, table, _ = await shown(file)
        monkeypatch.setenv("LANE_KEY", "wr0ng-key")
        _, _, wrong = await shown(file)
        monkeypatch.delenv("LANE_KEY")
        refused, _, errors = await shown(file)
    assert status == 0 and "name one below [lanes.plain]" in table and "s3cret" not in table
    assert refused == 1 and "set the lane's key (key_env)" in errors
    assert "it refuses the lane's key; correct it" in wrong and "wr0ng" not in wrong


async def test_one_lane_that_is_known_bad_has_nobody_beside_it(tmp_path: Path, shown: Show) -> None:
    async with Upstream("vllm", {"m": BAD}).running() as fast:
        _, table, _ = await shown(configured(tmp_path, fast.base))
    assert "known bad" in table and "there is no other lane" in table and "the plain lane serves" not in table


async def test_a_plain_lane_that_drafts_is_told(tmp_path: Path, shown: Show) -> None:
    drafting = able(width=4, speculation="eagle3")
    async with Upstream("vllm", {"m": drafting}).running() as one, Upstream("vllm", {"m": drafting}).running() as two:
        status, table, _ = await shown(configured(tmp_path, one.base, two.base))
    assert status == 0 and "the plain lane drafts (eagle3, 3 tokens)" in table


def test_without_lanes_it_says_what_to_configure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "specguard.toml"
    file.write_text("")
    assert main(["lanes", "--config", str(file)]) == 2
    assert "lanes.fast.url: no lane is configured" in capsys.readouterr().err
