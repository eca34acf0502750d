"""The prompts: real conversations, the same every time, and within the model's window."""

from __future__ import annotations

import pytest

from engine.bench.workloads import CONVERSATIONS, TITLES, conversations, long_conversation, prompts
from engine.engine import Engine
from engine.errors import ConfigError
from examples.agent import protocol
from examples.embedded_model import bench_conversations


def test_the_file_is_what_its_script_writes() -> None:
    assert conversations() == bench_conversations.conversations()
    assert bench_conversations.TARGET == CONVERSATIONS
    assert conversations()["tools"] == protocol.TOOLS


def test_prompts_are_the_turns_of_whole_repairs(embedded: Engine) -> None:
    agent = prompts(embedded, "agent", quick=False)
    assert [prompt.name.rpartition(": ")[2] for prompt in agent[:4]] == [
        "read_file",
        "edit_file",
        "run_tests",
        "answer",
    ]
    assert len(agent) == 16
    for prompt in agent:
        text = embedded.tokenizer.decode(list(prompt.tokens))
        assert text.startswith("<|im_start|>system") and text.endswith("<|im_start|>assistant\n")
        assert prompt.sampling.greedy


def test_rewrites_are_edits_alone(embedded: Engine) -> None:
    rewrites = prompts(embedded, "rewrite", quick=False)
    assert len(rewrites) == 3 and all(prompt.name.endswith("edit_file") for prompt in rewrites)


def test_fresh_text_begins_where_the_user_or_a_file_speaks(embedded: Engine) -> None:
    fresh = prompts(embedded, "fresh", quick=False)
    assert len({(prompt.tokens, prompt.sampling.seed) for prompt in fresh}) == 4
    for prompt in fresh:
        assert prompt.sampling.temperature == 1.0
        last = embedded.tokenizer.decode(list(prompt.tokens)).rpartition("<|im_start|>")[2]
        assert last in ("user\n", "user\n<tool_response>\n")


@pytest.mark.parametrize("workload", TITLES)
def test_quick_is_less(embedded: Engine, workload: str) -> None:
    quick, whole = prompts(embedded, workload, True), prompts(embedded, workload, False)
    assert 0 < len(quick) < len(whole)
    assert max(prompt.limit for prompt in quick) < max(prompt.limit for prompt in whole)


def test_a_long_conversation_fills_the_room_and_goes_on(embedded: Engine) -> None:
    first, second = long_conversation(embedded, 4000)
    assert 3700 < len(second) <= 4000
    assert second[: len(first)] == first
    assert len(second) - len(first) < 400


def test_no_room_for_a_conversation(embedded: Engine) -> None:
    with pytest.raises(ConfigError, match="100 tokens hold no conversation"):
        long_conversation(embedded, 100)
