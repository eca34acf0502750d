"""Training conversations: what the engine's template renders, calls that work, mended mistakes, and weights."""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from detectors.qwen_xml import read_call
from detectors.tool_schema import ToolSchemas
from engine.template import ChatTemplate
from examples.agent import protocol
from examples.agent.workspace import Workspace
from examples.embedded_model import evaluate
from examples.embedded_model.bugs import candidates
from examples.embedded_model.episodes import (
    BODY_WEIGHT,
    CONTEXT_WEIGHT,
    FIX_WEIGHT,
    TEMPLATE_FILE,
    Episode,
    differing,
    encode,
    equal_from_start,
    make_episode,
    render,
)
from examples.embedded_model.tasks import Task, function_source, is_held_out_combination, run

DETOURS = ("", "path", "old", "fix")
SCHEMAS = ToolSchemas.compile([(t["function"]["name"], t["function"]["parameters"]) for t in protocol.TOOLS])


@cache
def seeds_of(detour: str) -> tuple[int, ...]:
    """Seeds that lead to one kind of mistake."""
    found = []
    for seed in range(800):
        rng = random.Random(seed)
        taken = rng.choice(("path", "old", "old", "fix", "fix")) if rng.random() < 0.2 else ""
        if taken == detour:
            found.append(seed)
    return tuple(found)


def episode_with(task: Task, detour: str, number: int = 0) -> Episode:
    seeds = seeds_of(detour)
    return make_episode(task, random.Random(seeds[number % len(seeds)]))


def calls_of(episode: Episode) -> list[tuple[int, str, dict[str, str]]]:
    """(index of the message, name, arguments) of each call."""
    return [
        (index, call["function"]["name"], call["function"]["arguments"])
        for index, message in enumerate(episode.messages)
        for call in message.get("tool_calls", ())
    ]


@pytest.fixture(scope="module")
def episodes(training_tasks: list[Task]) -> list[tuple[Task, Episode]]:
    """All four kinds, over many tasks."""
    return [(task, episode_with(task, DETOURS[i % 4], i)) for i, task in enumerate(training_tasks)]


def test_the_text_is_what_the_engine_renders(episodes: list[tuple[Task, Episode]]) -> None:
    template = ChatTemplate.load(TEMPLATE_FILE.parent)
    for _, episode in episodes[:40]:
        assert render(episode.messages) == template.render(episode.messages, protocol.TOOLS, False)
        first = episode.messages[:2]
        assert render(first, generation_prompt=True) == template.render(first, protocol.TOOLS)


def test_each_prompt_is_the_beginning_of_the_finished_text(episodes: list[tuple[Task, Episode]]) -> None:
    """What the model has read when it is to write a turn is what it read in training."""
    for _, episode in episodes[:40]:
        text = render(episode.messages)
        for index, message in enumerate(episode.messages):
            if message["role"] == "assistant":
                assert text.startswith(render(episode.messages[:index], generation_prompt=True))


def test_calls_are_read_by_the_guard_and_valid(episodes: list[tuple[Task, Episode]]) -> None:
    for _, episode in episodes:
        bodies = re.findall(r"<tool_call>(.*?)</tool_call>", render(episode.messages[1:]), re.DOTALL)[1:]
        calls = calls_of(episode)
        assert len(bodies) == len(calls)
        for body, (_, name, arguments) in zip(bodies, calls, strict=True):
            read = read_call(body, SCHEMAS.parameters)
            assert (read.name, read.arguments) == (name, arguments)
            assert SCHEMAS.check(read.name, read.arguments) is None


def test_a_workspace_answers_every_call_as_the_episode_says(
    episodes: list[tuple[Task, Episode]], tmp_path: Path
) -> None:
    for number, (task, episode) in enumerate(episodes):
        folder = tmp_path / str(number)
        folder.mkdir()
        evaluate.write_files(folder, task)
        workspace = Workspace(folder)
        for index, name, arguments in calls_of(episode):
            if name == "run_tests":  # in this process: a subprocess for each would take minutes
                source = (folder / task.module).read_text()
                failures, passed = run(source, task.files[f"test_{task.module}"], task.module[:-3])
                answer = protocol.summary([protocol.failure(*f) for f in failures], passed)
            else:
                answer = workspace.call(name, arguments)
            assert episode.messages[index + 1] == {"role": "tool", "content": answer}
        assert (folder / task.module).read_text() == task.fixed


@pytest.mark.parametrize("detour", DETOURS)
def test_on_disk_with_real_test_runs_the_task_is_repaired(
    detour: str, held_out_tasks: list[Task], tmp_path: Path
) -> None:
    task = held_out_tasks[DETOURS.index(detour)]
    episode = episode_with(task, detour)
    evaluate.write_files(tmp_path, task)
    workspace = Workspace(tmp_path)
    opening = protocol.first_message(workspace.files(), workspace.run_tests())
    assert [m["content"] for m in episode.messages[:2]] == [protocol.SYSTEM_PROMPT, opening]
    assert not evaluate.tests_pass(workspace, task)
    for index, name, arguments in calls_of(episode):
        assert episode.messages[index + 1]["content"] == workspace.call(name, arguments)
    assert evaluate.tests_pass(workspace, task)


def test_the_last_edit_replaces_text_that_occurs_once(episodes: list[tuple[Task, Episode]]) -> None:
    for task, episode in episodes:
        edits = [(i, arguments) for i, name, arguments in calls_of(episode) if name == "edit_file"]
        index, last = edits[-1]
        assert index not in episode.mistakes
        assert last["new_string"] == function_source(task.fixed, task.function)
        if len(edits) == 1:
            source = task.files[task.module]
            assert source.count(last["old_string"]) == 1
            assert source.replace(last["old_string"], last["new_string"]) == task.fixed


def test_mistakes_occur_and_each_fails(training_tasks: list[Task]) -> None:
    shares = {detour: len(seeds_of(detour)) / 800 for detour in DETOURS}
    assert 0.75 < shares[""] < 0.85
    made = dict.fromkeys(DETOURS, 0)
    for number, task in enumerate(training_tasks):
        for detour in DETOURS:
            episode = episode_with(task, detour, number)
            made[detour] += bool(episode.mistakes)
            for index in episode.mistakes:
                after = episode.messages[index + 1 :]
                if detour == "fix":
                    assert after[0]["content"] == protocol.edited(task.module)
                    assert after[2]["content"].startswith("FAIL ")
                else:
                    assert after[0]["content"].startswith("error: ")
    assert made[""] == 0
    assert made["path"] == made["old"] == len(training_tasks)
    assert made["fix"] > len(training_tasks) // 2


def test_a_mended_fault_is_never_one_that_is_held_out(training_tasks: list[Task]) -> None:
    checked = 0
    for number, task in enumerate(training_tasks):
        episode = episode_with(task, "fix", number)
        kind, _, line = task.combination.split("/")
        names = [w for w in task.new.replace("(", " ").replace(")", " ").split() if w.isidentifier()]
        known = [bug for seed in range(8) for bug in candidates([task.new], names, random.Random(seed))]
        for index in episode.mistakes:
            wrong = episode.messages[index]["tool_calls"][0]["function"]["arguments"]["new_string"].splitlines()
            kinds = {bug.kind for bug in known if bug.wrong.strip() in [text.strip() for text in wrong]}
            checked += bool(kinds)
            assert not kinds or not all(is_held_out_combination(f"{kind}/{k}/{line}") for k in kinds)
    assert checked > 50


def test_an_episode_is_repeatable(training_tasks: list[Task]) -> None:
    for seed in range(20):
        first, second = (make_episode(training_tasks[seed], random.Random(seed)) for _ in range(2))
        assert (first.messages, first.mistakes) == (second.messages, second.mistakes)


def test_weights_by_who_wrote_the_text(tokenizer: Tokenizer, episodes: list[tuple[Task, Episode]]) -> None:
    for _, episode in episodes[:60]:
        ids, weights = encode(episode, tokenizer)
        text = render(episode.messages)
        encoded = tokenizer.encode(text)
        assert ids.tolist() == encoded.ids
        turns = [m.span(1) for m in re.finditer(r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)", text, re.DOTALL)]
        written = [i for i, message in enumerate(episode.messages) if message["role"] == "assistant"]
        assert len(turns) == len(written)
        seen = set()
        for (start, stop), weight in zip(encoded.offsets, weights.tolist(), strict=True):
            [*turn] = [n for n, (begin, end) in enumerate(turns) if start < end and stop > begin]
            if not turn:
                assert weight in (np.float32(CONTEXT_WEIGHT), np.float32(BODY_WEIGHT))
            elif written[turn[0]] in episode.mistakes:
                assert weight == 0.0
            else:
                assert weight in (1.0, FIX_WEIGHT)
                seen.add(text[start:stop])
        assert {"<|im_end|>", "<tool_call>", "</tool_call>"} <= seen
        assert bool(episode.mistakes) == bool((weights == 0.0).any())


def test_the_repair_weighs_most_where_the_texts_part(
    tokenizer: Tokenizer, episodes: list[tuple[Task, Episode]]
) -> None:
    for _, episode in episodes[:60]:
        _, weights = encode(episode, tokenizer)
        text = render(episode.messages)
        offsets = tokenizer.encode(text).offsets
        heavy = [offsets[i] for i in np.flatnonzero(weights == FIX_WEIGHT)]
        [*edits] = [(i, a) for i, name, a in calls_of(episode) if name == "edit_file" and i not in episode.mistakes]
        count = 0
        for _, arguments in edits:
            old, new = arguments["old_string"], arguments["new_string"]
            at = text.rindex(
                f"<parameter=old_string>\n{old}\n</parameter>\n<parameter=new_string>\n{new}\n</parameter>"
            )
            first_old = at + len("<parameter=old_string>\n")
            first_new = text.index("<parameter=new_string>\n", at) + len("<parameter=new_string>\n")
            parting = next(i for i, (a, b) in enumerate(zip(old + "\0", new + "\0", strict=False)) if a != b)
            for first, size in ((first_old, len(old)), (first_new, len(new))):
                inside = [span for span in heavy if first <= span[0] < first + size + 1]
                count += len(inside)
                assert inside[0][0] <= first + parting <= inside[-1][1]
                assert len(inside) < 24
        assert count == len(heavy) > 0


def test_sound_lines_that_are_shown_weigh_a_little(tokenizer: Tokenizer, training_tasks: list[Task]) -> None:
    for task in training_tasks[:30]:
        episode = episode_with(task, "")
        _, weights = encode(episode, tokenizer)
        text = render(episode.messages)
        shown = protocol.file_text(task.files[task.module])
        at = text.index(f"<tool_response>\n{shown}") + len("<tool_response>\n")
        offsets = tokenizer.encode(text).offsets
        for line in shown.splitlines(keepends=True):
            code = line.strip()
            sound = line.startswith("    ") and code != task.old and not code.startswith('"""')
            inside = [i for i, (start, stop) in enumerate(offsets) if at <= start and stop <= at + len(line.rstrip())]
            if code and len(inside) > 2:
                # the tokens in the middle: those at the ends may belong to a neighbouring line as well
                assert {weights[i] for i in inside[1:-1]} == {np.float32(BODY_WEIGHT if sound else CONTEXT_WEIGHT)}
            at += len(line)


def test_without_the_system_turn_the_rest_is_the_same(tokenizer: Tokenizer, training_tasks: list[Task]) -> None:
    for number in range(8):
        episode = episode_with(training_tasks[number], DETOURS[number % 4])
        (ids, weights), (short, light) = encode(episode, tokenizer), encode(episode, tokenizer, bare=True)
        assert short.tolist() == ids[-len(short) :].tolist()
        assert light.tolist() == weights[-len(light) :].tolist()
        assert tokenizer.decode(short.tolist(), skip_special_tokens=False).startswith("<|im_start|>user\n")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([1, 2, 3, 4], [1, 9, 3, 4], [11, 21]),
        ([1, 2, 3], [1, 2, 5, 3], [12, 22]),  # an insertion: the token after it stands for the old text
        ([1, 2, 5, 3], [1, 2, 3], [12, 22]),
        ([1, 7, 8, 4], [1, 9, 4], [11, 12, 21]),
        ([1, 1, 2], [1, 1, 1, 2], [12, 22]),
        ([5], [6], [10, 20]),
    ],
)
def test_where_two_texts_differ(old: list[int], new: list[int], expected: list[int]) -> None:
    assert differing(np.array(old), 10, np.array(new), 20) == expected


def test_equal_from_start() -> None:
    assert equal_from_start(np.array([1, 2, 3]), np.array([1, 2, 4])) == 2
    assert equal_from_start(np.array([1, 2]), np.array([1, 2, 4])) == 2
    assert equal_from_start(np.array([], dtype=int), np.array([1])) == 0
