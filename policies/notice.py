"""The words a client reads when the guard ends a response: which call or loop, where, and why.

Must not: repeat values of a refused call, or claim more than was found.
Invariant: one line of plain text, at most NOTICE_CHARS long.
"""

from __future__ import annotations

from detectors.finding import Finding
from policies.policy import End

NOTICE_CHARS = 400
MARKER = "[specguard]"


def notice(finding: Finding, end: End) -> str:
    """For `End`s that leave a readable response; starts with MARKER."""
    match end.cause:
        case "model_loop":
            what = _loop(finding)
        case "truncated_call":
            what = "A tool call was not sent: the token limit cut it off."
        case "late_call":
            what = f"{_call(finding)} was not sent: it was not complete after {finding.evidence.get('limit_s'):g} s."
        case "by_rule":
            what = f"Stopped by the rule `{end.rule}`: {finding.reason}."
        case _:
            what = _invalid_call(finding)
    line = " ".join("".join(c if c.isprintable() else " " for c in f"{MARKER} {what}").split())
    return line if len(line) <= NOTICE_CHARS else line[: NOTICE_CHARS - 1] + "…"


def _loop(finding: Finding) -> str:
    evidence = finding.evidence
    period, copies = evidence.get("period"), evidence.get("copies")
    match finding.detector:
        case "loop.calls":
            return f"Stopped: the model called tool `{evidence.get('tool')}` {copies} times with the same arguments."
        case "loop.history":
            tools = ", ".join(f"`{name}`" for name in evidence.get("tools", ()))
            return (
                f"Stopped: the same calls ({tools}) had the same results {copies} times in a row. "
                "Say how to go on, or that it should continue as it did."
            )
        case "struct.think":
            return f"Stopped: the model opened its thinking {copies} times again."
        case name if name.startswith("struct."):
            return f"Stopped: the model wrote the token {evidence.get('tag')} {copies} times in a row."
    where = "a tool call" if finding.channel.startswith("tool:") else f"its {finding.channel}"
    if finding.detector != "loop.period":
        return f"Stopped: the model repeats itself in {where}, with small changes."
    return f"Stopped: the model repeats the same {period} tokens in {where}, {copies} times by now."


def _invalid_call(finding: Finding) -> str:
    evidence = finding.evidence
    name = _call(finding)
    match finding.detector:
        case "tool.unknown":
            return f"{name} was not sent: no such tool was declared."
        case "tool.schema":
            path = evidence.get("instance_path") or "/"
            detail = ""
            if "missing" in evidence:
                detail = f" (missing: {evidence['missing']})"
            elif "unexpected" in evidence:
                detail = f" (unexpected: {', '.join(evidence['unexpected'])})"
            return f"{name} was not sent: its arguments violate `{finding.reason}` at {path}{detail}."
        case "tool.leak":
            return f"{name} was not sent: it was written as text, without the tags of a call."
        case "tool.truncated":
            return "A tool call was not sent: the model ended inside it."
        case _:
            return f"{name} was not sent: {finding.reason.replace('_', ' ')}."


def _call(finding: Finding) -> str:
    tool = finding.evidence.get("tool")
    return f"A call of tool `{tool}`" if tool else "A tool call"
