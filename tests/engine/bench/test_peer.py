"""The peer: same folder, same count of tokens, and what it refuses is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from engine.bench.measure import measure
from engine.bench.peer import Peer, PeerMissing
from engine.bench.workloads import prompts
from engine.engine import EMBEDDED, Engine


def test_it_says_what_the_engine_says(embedded: Engine) -> None:
    pytest.importorskip("transformers")
    prompt = prompts(embedded, "agent", quick=True)[0]
    plain = measure(embedded, prompt, "none").tokens
    peer = Peer(EMBEDDED, "cpu", torch.float32)
    said, seconds, count = peer.generate(prompt, len(plain))
    assert said == plain and count == len(plain) and seconds > 0
    assert peer.prompt_lookup(prompt, 4).startswith("refused: ValueError: ")


def test_more_tokens_than_the_reply_has(embedded: Engine) -> None:
    pytest.importorskip("transformers")
    prompt = prompts(embedded, "agent", quick=True)[2]
    plain = measure(embedded, prompt, "none").tokens
    said, _, count = Peer(EMBEDDED, "cpu", torch.float32).generate(prompt, len(plain) + 5)
    assert count == len(plain) + 5 and said[: len(plain)] == plain


def test_a_missing_package_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PeerMissing, match="not installed"):
        Peer(EMBEDDED, "cpu", torch.float32)


def test_a_folder_that_it_cannot_load(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(PeerMissing, match="cannot load"):
        Peer(tmp_path, "cpu", torch.float32)
