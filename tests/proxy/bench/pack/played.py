"""An agent without a model for the pack: a scripted backend that repairs shipped tasks, well or badly by mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from proxy.backends.base import Backend
from proxy.bench.pack.lanes import Opening, builtin
from proxy.bench.pack.tasks import Task, shipped
from proxy.configuration.config import Config
from proxy.conversation import ChatRequest
from tests.proxy.scripted import Script, ScriptedBackend, call_text

REPORT = call_text("report_fault", path="order.py", kind="name", line="3", certain="true")


def agent(request: ChatRequest) -> str:
    """What a good model says next."""
    if any(tool.name == "report_fault" for tool in request.tools):
        return REPORT
    asked = next(message.text for message in request.messages if message.role == "user")
    task = next((each for each in shipped().tasks if each.output in asked and each.module in asked), None)
    if task is None:
        return "Gladly."
    read = next((m for m in request.messages[2:] if m.text == task.source.rstrip("\n")), None)
    if read is None:
        return call_text("read_file", path=task.module)
    last = request.messages[-1].text
    if last.startswith("edited"):
        return call_text("run_tests")
    return "Done." if last.endswith("passed") else edit(task)


def edit(task: Task, wrong: bool = False) -> str:
    """The faulty line is replaced, by the right one or by another wrong one."""
    lines = zip(task.source.splitlines(), task.fixed.splitlines(), strict=True)
    old, new = next((old.strip(), new.strip()) for old, new in lines if old != new)
    return call_text("edit_file", path=task.module, old_string=old, new_string="pass" if wrong else new)


def backend(fast: Callable[[ChatRequest], str | None] = lambda _: None) -> ScriptedBackend:
    """fast: what speculating modes say instead, None = the same."""
    made = ScriptedBackend(answer=lambda request: Script(agent(request), fast=fast(request)), window=4096)
    made.capabilities = replace(made.capabilities, constraints=True)
    return made


def opening(fast: Callable[[ChatRequest], str | None] = lambda _: None, config: Config | None = None) -> Opening:
    def build(_: Config) -> Backend:
        return backend(fast)

    return builtin(config or Config(), build=build)
