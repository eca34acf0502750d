"""The part of a model that a scripted backend plays for a coding agent: write a file with the agent's tool, report.

Must not: know which client asks; it goes by the tools and the history of the request, as a model would.
Invariant: of a request, plain decoding always says the same; `fault` is in what speculation says, in the response that
writes the file, and nowhere else.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from proxy.conversation import ChatRequest
from tests.proxy.scripted import Script, call_text

Fault = Literal["none", "refused", "loops", "diverges"]
"""Of the call that writes the file: `refused` by its schema, `loops` in its arguments without an end. `diverges`: the
text before it is not what plain decoding says, which nothing but an audit of the engine can tell."""
FAULTS: tuple[Fault, ...] = ("refused", "loops", "diverges")
NAME, CONTENT = "proof.txt", "specguard was here\n"
TASK = f"Write the file {NAME} with your tool, then report."
THINKS = "<think>\nA file is wanted, so I call the tool.\n</think>\n\n"
SAYS, REPORT, ASIDE = "I write the file now.", f"The file {NAME} is written.", "A file is written"
WRONG = "The weather is fine today, and there is nothing at all to be done about any file here."
SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


@dataclass(frozen=True, slots=True)
class Part:
    """Answers requests of an agent that works in `folder`.

    submits: the agent ends with a command, not with a text. in_text: the agent has no tools and reads files from the
    text.
    """

    folder: Path
    fault: Fault = "none"
    submits: bool = False
    in_text: bool = False

    def __call__(self, request: ChatRequest) -> Script:
        """Says what the request asks for; requests aside, such as for a title, get a few words."""
        if self.in_text:
            return self._spoilt("", f"{SAYS}\n\n", f"{NAME}\n```\n{CONTENT}```\n", "")
        writer = next((name for name in WRITERS if any(tool.name == name for tool in request.tools)), None)
        if writer is None or not any(TASK in message.text for message in request.messages):
            return Script(ASIDE)
        if any(message.role == "tool" for message in request.messages):
            return Script(call_text(writer, command=SUBMIT) if self.submits else REPORT)
        arguments = {key: self._filled(value) for key, value in WRITERS[writer].items()}
        refused = call_text(writer, **{f"{key}s": value for key, value in arguments.items()})
        endless = call_text(writer, **{key: value + CONTENT * 400 for key, value in arguments.items()})
        return self._spoilt(THINKS, f"{SAYS}\n", call_text(writer, **arguments), refused, endless)

    def _spoilt(self, thinks: str, says: str, then: str, refused: str, endless: str = "") -> Script:
        plain = thinks + says + then
        match self.fault:
            case "refused":
                return Script(plain, fast=thinks + says + refused)
            case "loops":
                return Script(plain, fast=thinks + says + endless)
            case "diverges":
                return Script(plain, fast=f"{thinks}{' '.join(says.split()[:3])} {WRONG}", audited="all")
            case "none":
                return Script(plain)

    def _filled(self, value: str) -> str:
        path = self.folder / NAME
        return value.format(path=path, content=CONTENT, quoted=shlex.quote(str(path)), printed=shlex.quote(CONTENT))


WRITERS: Mapping[str, Mapping[str, str]] = {
    "Write": {"file_path": "{path}", "content": "{content}"},
    "write": {"filePath": "{path}", "content": "{content}"},
    "write_file": {"file_path": "{path}", "content": "{content}"},
    "exec_command": {"cmd": "printf %s {printed} > {quoted}"},
    "shell_command": {"command": "printf %s {printed} > {quoted}"},
    "bash": {"command": "printf %s {printed} > {quoted}"},
}
"""What clients call the tool that writes a file, and its required arguments; the first that is declared is called."""
