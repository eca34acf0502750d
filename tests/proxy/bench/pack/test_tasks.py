"""Tasks and their context: the same every time, as long as asked for, never the file that is to be mended."""

from __future__ import annotations

from proxy.bench.pack.sandbox import same_tree, unknown_names
from proxy.bench.pack.tasks import shipped


def test_a_task_is_faulty_and_its_reference_is_not() -> None:
    tasks = shipped().tasks
    assert len(tasks) == 60 and len({task.name for task in tasks}) == 60
    for task in tasks:
        assert not same_tree(task.source, task.fixed) and unknown_names(task.fixed) == ()
        assert set(task.files) == {task.module, task.test}


def test_the_opening_is_what_the_model_was_trained_on() -> None:
    system, asked = shipped().opening(shipped().tasks[0])
    assert system["role"] == "system"
    assert asked["content"].startswith("The tests fail. Files:\norder.py\ntest_order.py\n\nFAIL test_heats\n")
    assert asked["content"].endswith("2 failed, 0 passed\n\nFix the bug.")


def test_context_has_the_asked_length_and_no_file_twice() -> None:
    source = shipped()
    for chars in (1, 3000, 60_000):
        turns = source.context(chars, 5, "order.py")
        texts = [turn["content"] for turn in turns if turn["role"] == "tool"]
        paths = [turn["tool_calls"][0]["function"]["arguments"] for turn in turns if turn["role"] == "assistant"]
        assert chars <= sum(map(len, texts)) + sum(map(len, paths)) and len(set(paths)) == len(paths)
        assert '{"path": "order.py"}' not in paths
        assert sum(map(len, texts[:-1])) < chars
    assert source.context(500, 5) == source.context(500, 5) != source.context(500, 6)
    assert source.context(0, 0) == []
