"""Stands in for the `specguard` command in tests of the demo: same options, written answers, no model.

Must not: import anything of ours; it runs as a script.
Invariant: without options every run of a task gives the same answers; FAKE names one thing that goes wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from aiohttp import web

FAKE = os.environ.get("FAKE", "")
EDIT = {"path": "order.py", "old_string": "return cost - 5", "new_string": "return cost + 5"}
CALLS: list[tuple[str, dict[str, str]]] = [
    ("read_file", {"path": "order.py"}),
    ("edit_file", EDIT),
    ("run_tests", {}),
]
INCIDENT = "inc_TEST"


async def ready(request: web.Request) -> web.Response:
    return web.json_response({"ready": True})


async def models(request: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": "fake"}]})


def chat(options: argparse.Namespace) -> Any:
    async def answer(request: web.Request) -> web.StreamResponse:
        number = sum(message["role"] == "tool" for message in (await request.json())["messages"])
        if FAKE == "dies" and number == 1:
            os._exit(3)
        tripped = bool(options.plant) and number == 1
        ids = [100 * number + i for i in range(4)]
        if FAKE == "other-token" and tripped:
            ids[2] = 7
        extension = {
            "token_ids": ids,
            "mode": "plain" if tripped or options.mode == "plain" else "mtp+ngram/full",
            "incidents": [INCIDENT] if tripped else [],
        }
        delta: dict[str, Any] = {"content": "Fixed."}
        if number < len(CALLS):
            name, arguments = CALLS[number]
            function = {"name": name, "arguments": json.dumps(arguments)}
            delta = {"tool_calls": [{"index": 0, "id": f"c{number}", "type": "function", "function": function}]}
        reason = "tool_calls" if number < len(CALLS) else "stop"
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        timings = {"predicted_n": 4, "predicted_ms": 8.0, "draft_n": 4, "draft_n_accepted": 3}
        for chunk in (
            {"choices": [{"index": 0, "delta": delta}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
            {"choices": [], "usage": {"completion_tokens": 4}, "timings": timings, "specguard": extension},
        ):
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    return answer


def serve(options: argparse.Namespace) -> int:
    if FAKE == "no-start":
        print("the weights are missing", file=sys.stderr)
        return 4
    app = web.Application()
    app.router.add_get("/ready", ready)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", chat(options))
    web.run_app(app, host=options.host, port=options.port, print=lambda _: None, shutdown_timeout=0.1)
    return 0


def incidents(options: argparse.Namespace) -> int:
    culprit = "model" if FAKE == "other-blame" else "speculation"
    record = {"opened": {"tokens_rewound": 3}, "closed": {"culprit": culprit}}
    print(json.dumps({"data": record}) if options.json else f"{options.id} blames {culprit}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("serve")
    server.add_argument("--host")
    server.add_argument("--port", type=int)
    server.add_argument("--mode", default="")
    server.add_argument("--plant", default="")
    server.add_argument("--incidents")
    shown = commands.add_parser("incidents")
    shown.add_argument("action", choices=["show"])
    shown.add_argument("id")
    shown.add_argument("--json", action="store_true")
    shown.add_argument("--incidents")
    options = parser.parse_args()
    return serve(options) if options.command == "serve" else incidents(options)


if __name__ == "__main__":
    sys.exit(main())
