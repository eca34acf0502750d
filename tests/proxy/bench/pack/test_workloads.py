"""The seven workloads: all there, the same every time, of the asked size."""

from __future__ import annotations

from detectors.tool_schema import ToolSchemas
from proxy.bench.pack.tasks import shipped
from proxy.bench.pack.workloads import QUICK, REPORT_TOOL, Ask, Loop, Size, cold, names, workloads


def test_seven_and_the_same_every_time() -> None:
    made = workloads(shipped(), Size())
    assert names(made) == ["cold", "patch", "json", "far", "markdown", "loop", "quality"]
    assert made == workloads(shipped(), Size()) and made != workloads(shipped(), Size(), seed=1)
    assert [len(workload.steps) for workload in made] == [4, 4, 4, 4, 4, 20, 20]
    assert [len(workload.steps) for workload in workloads(shipped(), QUICK)] == [1, 1, 1, 1, 1, 3, 2]


def test_repairs_do_not_share_tasks() -> None:
    made = {workload.key: workload.steps for workload in workloads(shipped(), Size())}
    far = {step.task.name for step in made["far"] if isinstance(step, Loop)}
    quality = {step.task.name for step in made["quality"] if isinstance(step, Loop)}
    assert len(far) == 4 and len(quality) == 20 and not far & quality


def test_a_cold_prompt_repeats_nothing() -> None:
    text = cold(shipped(), 3000, 1).messages[1]["content"]
    lines = text.partition("\n\n")[0].splitlines()
    assert 3000 <= sum(len(line) + 1 for line in lines) < 3100 and len(set(lines)) == len(lines)
    assert cold(shipped(), 3000, 2).messages != cold(shipped(), 3000, 1).messages


def test_the_loop_test_is_one_prompt_with_other_seeds() -> None:
    steps = [step for step in workloads(shipped(), Size())[5].steps if isinstance(step, Ask)]
    assert len({str(step.messages) for step in steps}) == 1
    assert len({step.fields["seed"] for step in steps}) == 20


def test_the_strict_schema_is_one() -> None:
    function = REPORT_TOOL["function"]
    schemas = ToolSchemas.compile([(function["name"], function["parameters"])])
    good = {"path": "a.py", "kind": "name", "line": 3, "certain": True}
    assert schemas.check("report_fault", good) is None
    assert schemas.check("report_fault", good | {"line": 100}) is not None
