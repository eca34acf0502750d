"""The agent's loop: results as the model was trained on them, and an end in every case."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from proxy.bench.pack.client import Answer, Call
from proxy.bench.pack.repairing import TURNS, Files, edited, hallucinated, repair
from proxy.bench.pack.tasks import Task, shipped

SOURCE = shipped()
TASK = SOURCE.tasks[0]


def call(name: str, **arguments: str) -> Call:
    return Call("c", name, json.dumps(arguments))


RIGHT = call("edit_file", path=TASK.module, old_string=TASK.source, new_string=TASK.fixed)


def test_results_are_worded_as_trained() -> None:
    files = Files(SOURCE, TASK)
    assert files.call(call("read_file", path=TASK.module)) == TASK.source.rstrip("\n")
    assert files.call(call("read_file", path="x.py")) == f"error: no file x.py. Files:\n{TASK.module}\n{TASK.test}"
    assert files.call(call("run_tests")) == TASK.output
    missing = call("edit_file", path=TASK.module, old_string="nowhere", new_string="")
    assert files.call(missing) == f"error: old_string not found in {TASK.module}"
    often = call("edit_file", path=TASK.module, old_string="kouli", new_string="")
    assert files.call(often) == f"error: old_string occurs 3 times in {TASK.module}"
    assert files.call(Call("c", "read_file", "[1]")) == "error: the arguments are not a JSON object"
    assert not files.useful
    assert files.call(RIGHT) == f"edited {TASK.module}" and files.useful
    assert files.call(call("run_tests")) == "2 passed"


def test_an_edit_that_makes_it_worse_is_of_no_use() -> None:
    files = Files(SOURCE, TASK)
    assert files.call(call("edit_file", path=TASK.module, old_string="return bronmits", new_string="pass")) != ""
    assert not files.useful and "return bronmits" not in files.now[TASK.module]


async def _run(*said: Answer, task: Task = TASK) -> tuple[Any, list[Sequence[Mapping[str, Any]]]]:
    asked: list[Sequence[Mapping[str, Any]]] = []

    async def ask(messages: Sequence[Mapping[str, Any]]) -> Answer:
        asked.append(list(messages))
        return said[min(len(asked), len(said)) - 1]

    return await repair(ask, SOURCE, task, SOURCE.opening(task)), asked


async def test_a_repair() -> None:
    done, asked = await _run(Answer(calls=(RIGHT,)), Answer(calls=(call("run_tests"),)), Answer(text="Done."))
    assert done.green and done.first_edit_s is not None and done.off == 0 and done.unknown == ()
    assert [message["role"] for message in asked[-1][2:]] == ["assistant", "tool", "assistant", "tool"]
    assert asked[-1][-1]["content"] == "2 passed"


async def test_whoever_says_done_without_doing_it_has_failed() -> None:
    done, _ = await _run(Answer(text="Done."))
    assert not done.green and done.first_edit_s is None and done.unknown == ("vasit_v",) and done.off == 2


async def test_circles_end() -> None:
    done, asked = await _run(Answer(calls=(call("run_tests"),)))
    assert done.gave_up == "the same calls three times" and len(asked) == 3
    paths = [Answer(calls=(call("read_file", path=f"{n}.py"),)) for n in range(20)]
    assert len((await _run(*paths))[1]) == TURNS
    assert (await _run(Answer(failed="status 500")))[0].gave_up == "status 500"


def test_a_tree_is_judged_without_running_anything() -> None:
    task = replace(TASK, judge="tree", tests="raise SystemExit", fixed=TASK.fixed + "# a comment\n")
    files = Files(SOURCE, task)
    assert files.call(call("run_tests")) == task.output
    assert not files.tested().green
    files.call(RIGHT)
    assert files.tested().green and edited(SOURCE, task, Answer(calls=(RIGHT,)))
    assert not edited(SOURCE, task, Answer(calls=(call("run_tests"),)))


async def test_who_mends_the_tests_has_repaired_nothing() -> None:
    name = TASK.tests.split("def test_")[1].partition("(")[0]
    easy = call("edit_file", path=TASK.test, old_string=TASK.tests, new_string=f"def test_{name}():\n    pass\n")
    done, asked = await _run(Answer(calls=(easy,)), Answer(calls=(call("run_tests"),)), Answer(text="Done."))
    assert asked[-1][-1]["content"] == "1 passed", "that is what it is told"
    assert not done.green


async def test_what_a_function_reads_of_its_module_is_not_unknown() -> None:
    """A task from a repository is a function alone."""
    alone = replace(TASK, source="def f(a):\n    return os.path(b)\n", fixed="def f(a):\n    return os.path(a)\n")
    done, _ = await _run(Answer(text="Done."), task=alone)
    assert done.unknown == ("b",)


async def test_what_a_repair_takes_from_where_it_is_not() -> None:
    wrong = TASK.source.replace('"""Functions for order."""', "from math import cubrt\nimport os\nos.nowhere()")
    done, _ = await _run(Answer(text="Done."), task=replace(TASK, source=wrong, fixed=TASK.fixed))
    assert done.unknown == ("math.cubrt", "os.nowhere", "vasit_v")
    repository = replace(SOURCE, modules=(("a/it.py", "import math\n\n\ndef f(a):\n    return math.sqrt(a)\n"),))
    fixed = "def f(a):\n    return math.sqrt(a)\n"
    alone = replace(
        TASK, module="it.py", fixed=fixed, source=fixed.replace("sqrt", "cubrt"), judge="tree", place="a/it.py"
    )
    assert hallucinated(repository, alone, {"it.py": alone.source}) == ("math.cubrt",)
    assert hallucinated(repository, alone, {"it.py": fixed}) == ()
