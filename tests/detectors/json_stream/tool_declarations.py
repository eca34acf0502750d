"""Thirty tools as coding agents and MCP servers declare them, each with valid calls.

Must not: copy a declaration of anybody: these are written in the style of what agents send.
Invariant: every call is valid under its tool's schema according to jsonschema-rs and jsonschema.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def obj(required: str = "", closed: bool | None = None, **properties: Any) -> Schema:
    """An object schema; `closed`: what additionalProperties says, None = nothing."""
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required.split()
    if closed is not None:
        schema["additionalProperties"] = not closed
    return schema


def array(items: Any, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def one_of(*values: Any) -> Schema:
    return {"type": "string", "enum": list(values)}


TEXT: Schema = {"type": "string"}
SHORT: Schema = {"type": "string", "minLength": 1, "maxLength": 40}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
MAYBE: Schema = {"anyOf": [{"type": "string"}, {"type": "null"}]}

TREE = {
    "$defs": {"node": obj("name", True, name=TEXT, children=array({"$ref": "#/$defs/node"}), size=COUNT)},
    **obj("root", True, root={"$ref": "#/$defs/node"}),
}
FILTER = {
    "$defs": {
        "filter": {
            "anyOf": [
                obj("op items", True, op=one_of("and", "or"), items=array({"$ref": "#/$defs/filter"}, minItems=1)),
                obj("op item", True, op={"const": "not"}, item={"$ref": "#/$defs/filter"}),
                obj("field value", True, field=TEXT, value={"type": ["string", "number", "boolean", "null"]}),
            ]
        }
    },
    **obj("where", None, where={"$ref": "#/$defs/filter"}, limit=COUNT),
}
BLOCK = {
    "anyOf": [
        obj("type text", True, type={"const": "text"}, text=TEXT),
        obj("type url", True, type={"const": "image"}, url=TEXT, alt=MAYBE),
        obj("type rows", True, type={"const": "table"}, rows=array(array(TEXT))),
    ]
}

DECLARATIONS: list[tuple[str, Schema, list[dict[str, Any]]]] = [
    ("Read", obj("file_path", True, file_path=TEXT, offset=COUNT, limit={"type": "integer", "exclusiveMinimum": 0}),
     [{"file_path": "/src/a.py"}, {"file_path": "b", "offset": 10, "limit": 200}]),
    ("Write", obj("file_path content", True, file_path=TEXT, content=TEXT),
     [{"file_path": "a.txt", "content": "line\n\ttab \"quoted\" \\ é 漢 😀\n"}]),
    ("Edit", obj("file_path old_string new_string", True, file_path=TEXT, old_string=TEXT, new_string=TEXT,
                 replace_all={"type": "boolean", "default": False}),
     [{"file_path": "a", "old_string": "x", "new_string": "", "replace_all": True}]),
    ("MultiEdit", obj("file_path edits", True, file_path=TEXT, edits=array(
        obj("old_string new_string", True, old_string=TEXT, new_string=TEXT, replace_all=FLAG), minItems=1)),
     [{"file_path": "a", "edits": [{"old_string": "1", "new_string": "2"},
                                   {"new_string": "4", "old_string": "3", "replace_all": False}]}]),
    ("Bash", obj("command", True, command=TEXT, timeout={"type": "number", "maximum": 600000}, description=TEXT,
                 run_in_background=FLAG),
     [{"command": "ls -la | grep 'x'"}, {"command": "make", "timeout": 1.5e3, "run_in_background": True}]),
    ("Grep", obj("pattern", True, **{"pattern": TEXT, "path": TEXT, "-i": FLAG, "-A": COUNT, "-B": COUNT,
                                     "output_mode": one_of("content", "files_with_matches", "count")}),
     [{"pattern": "def \\w+", "output_mode": "files_with_matches", "-i": True, "-A": 3}]),
    ("Glob", obj("pattern", True, pattern=TEXT, path=TEXT), [{"pattern": "**/*.py", "path": "src"}]),
    ("TodoWrite", obj("todos", True, todos=array(obj("content status activeForm", True, content=SHORT,
                      status=one_of("pending", "in_progress", "completed"), activeForm=SHORT))),
     [{"todos": []}, {"todos": [{"content": "fix", "status": "pending", "activeForm": "fixing"},
                                {"status": "completed", "activeForm": "é", "content": "done"}]}]),
    ("WebFetch", obj("url prompt", True, url={"type": "string", "format": "uri"}, prompt=TEXT),
     [{"url": "https://example.org/a?b=c", "prompt": "what is it"}]),
    ("Task", obj("description prompt", None, description=TEXT, prompt=TEXT, agent_type=one_of("general", "explore")),
     [{"description": "look", "prompt": "find it", "agent_type": "explore", "model": "small"}]),
    ("AskUser", obj("questions", True, questions=array(obj("question options", True, question=TEXT, header=SHORT,
                    multiSelect=FLAG, options=array(obj("label", True, label=TEXT, description=TEXT),
                                                    minItems=2, maxItems=4)), minItems=1, maxItems=4)),
     [{"questions": [{"question": "which?", "options": [{"label": "a"}, {"label": "b", "description": "B"}]}]}]),
    ("NotebookEdit", obj("notebook_path new_source", True, notebook_path=TEXT, cell_id=TEXT, new_source=TEXT,
                         cell_type=one_of("code", "markdown"), edit_mode=one_of("replace", "insert", "delete")),
     [{"notebook_path": "n.ipynb", "new_source": "print(1)", "edit_mode": "insert", "cell_type": "code"}]),
    ("shell", obj("command", True, command=array(TEXT), workdir=TEXT, timeout_ms=NUMBER,
                  sandbox_permissions=one_of("use_default", "require_escalated"), justification=TEXT),
     [{"command": ["bash", "-lc", "ls"], "workdir": "/", "timeout_ms": 1000}]),
    ("update_plan", obj("plan", True, explanation=TEXT, plan=array(
        obj("step status", True, step=TEXT, status=one_of("pending", "in_progress", "completed")))),
     [{"plan": [{"step": "read", "status": "completed"}, {"step": "fix", "status": "in_progress"}]}]),
    ("apply_patch", obj("input", True, input=TEXT), [{"input": "*** Begin Patch\n*** End Patch"}]),
    ("view_image", obj("path", True, path=TEXT), [{"path": "a.png"}]),
    ("write_stdin", obj("session_id", True, session_id=COUNT, chars=TEXT, yield_time_ms=NUMBER),
     [{"session_id": 3, "chars": "\u0003", "yield_time_ms": 250}]),
    ("list", obj("", None, path=TEXT, ignore=array(TEXT)), [{}, {"path": ".", "ignore": ["*.pyc", "dist"]}]),
    ("webfetch", obj("url", True, url=TEXT, format=one_of("text", "markdown", "html"),
                     timeout={"type": "number", "minimum": 0, "maximum": 120}),
     [{"url": "http://x", "format": "markdown", "timeout": 30}]),
    ("create_issue", obj("owner repo title", True, owner=TEXT, repo=TEXT, title=TEXT, body=MAYBE,
                         labels=array(TEXT), assignees=array(TEXT), milestone={"type": ["integer", "null"]}),
     [{"owner": "a", "repo": "b", "title": "c", "body": None, "labels": ["bug"], "milestone": 4}]),
    ("search_code", obj("query", True, query=TEXT, sort={"enum": ["indexed", None]}, order=one_of("asc", "desc"),
                        page={"type": "integer", "minimum": 1}, perPage={"type": "integer", "maximum": 100}),
     [{"query": "x language:py", "sort": None, "order": "desc", "page": 2, "perPage": 100}]),
    ("browser_click", obj("element ref", True, element=TEXT, ref=TEXT, doubleClick=FLAG,
                          button=one_of("left", "right", "middle"), modifiers=array(one_of("Alt", "Control", "Shift"))),
     [{"element": "the button", "ref": "e12", "modifiers": ["Alt", "Shift"], "button": "middle"}]),
    ("query_database", obj("sql", None, sql=TEXT, params={"type": "object", "additionalProperties": {
        "type": ["string", "number", "boolean", "null"]}}),
     [{"sql": "select 1", "params": {"a": 1, "b": "x", "c": None}, "extra": [1]}]),
    ("send_message", obj("channel blocks", True, channel=TEXT, blocks=array(BLOCK)),
     [{"channel": "#a", "blocks": [{"type": "text", "text": "hi"}, {"alt": None, "type": "image", "url": "u"},
                                   {"rows": [["a"], []], "type": "table"}]}]),
    ("find_records", FILTER,
     [{"where": {"field": "a", "value": 1}}, {"where": {"op": "and", "items": [
         {"op": "not", "item": {"value": None, "field": "x"}}, {"field": "y", "value": "z"}]}, "limit": 5}]),
    ("make_tree", TREE, [{"root": {"name": "a", "children": [{"children": [], "name": "b"}, {"name": "c", "size": 1}]}}]
     ),
    ("set_config", obj("scope", True, scope=one_of("user", "project", "projects"), values={
        "type": "object", "additionalProperties": MAYBE}),
     [{"scope": "projects", "values": {"theme": "dark", "editor": None}}, {"scope": "project"}]),
    ("resize", obj("size", True, size={"anyOf": [{"type": "integer"}, one_of("auto", "full")]}, keep={"const": True}),
     [{"size": 3}, {"size": "auto", "keep": True}, {"size": 1e2}]),
    ("schedule", obj("when", True, when={"anyOf": [obj("every", True, every=COUNT), obj("at", True, at=TEXT)]},
                     tags=array(SHORT, maxItems=3)),
     [{"when": {"every": 5}}, {"when": {"at": "12:00"}, "tags": ["a", "b", "c"]}]),
    ("noop", obj("", True), [{}]),
]  # fmt: skip
