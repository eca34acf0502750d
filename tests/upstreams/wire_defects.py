"""Defects of how it is said: chunks that break OpenAI's rules, bytes that break SSE, HTTP that is something else.

Must not: change what the model says. Invariant: a defect that leaves the content whole is `same` or `healed`; one that
loses some of it may never pass as a success.
"""

from __future__ import annotations

import json

from tests.upstreams.defects import NOBODY, SERVER, SOUND, TWO_CALLS, Defect, gets
from tests.upstreams.faults import Fault, Signal
from tests.upstreams.replies import Reply, Text, Thinking
from tests.upstreams.spoilt_bytes import (
    comments_between,
    done_twice,
    escaped,
    line_without_end,
    no_done,
    one_long_line,
    only_comments,
    page,
    refuses,
    rewritten,
    tiny,
    until_the_finish,
)
from tests.upstreams.spoilt_chunks import (
    MANY,
    after,
    after_the_finish,
    all_index_zero,
    arguments_as_objects,
    at_once,
    both_names,
    content_as_parts,
    edited,
    endless_chunks,
    ends_after_error,
    error,
    fewer_ids,
    finish_says_stop,
    halves,
    ids_of_something_else,
    index_of_nobody,
    interleaved,
    lose_first_arguments,
    many_tiny_chunks,
    nameless,
    nan_logprobs,
    on_calls,
    renamed,
    role_everywhere,
    usage_gone,
    without_choices,
    without_id,
)

HTML = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
PEG = "The model produced output that does not match the expected peg-native format"
BODY = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "I list it."}, "finish_reason": "stop"}],
}
SMILES = Reply((Thinking("Ich schaue … 👀\n"), Text("Größe: 4 µm, 名前 😀!\n"), *SOUND.parts[2:]))

WIRE_DEFECTS = (
    # calls in pieces
    Defect("first_arguments_lost", 'vllm#34887: `code":"uptime"}`', on_calls(lose_first_arguments), gets("healed")),
    Defect("name_missing", "vllm#40861, #35421", on_calls(nameless), gets("healed")),
    Defect("call_id_missing", "ours", on_calls(without_id), gets("same", "healed"), SERVER),
    Defect(
        "index_repeated",
        "ours; litellm and vllm streams of two calls",
        on_calls(all_index_zero),
        gets("same", "healed"),
        sound=TWO_CALLS,
    ),
    Defect(
        "index_of_nobody",
        "vllm source: deltas of an inactive index are dropped",
        on_calls(index_of_nobody),
        gets("healed"),
    ),
    Defect(
        "calls_interleaved",
        "OpenAI's documentation allows it",
        Fault(chunks=interleaved),
        gets("same", "healed"),
        sound=TWO_CALLS,
    ),
    Defect("deltas_after_the_finish", "claude-code#67809", Fault(chunks=after_the_finish), gets("same", "healed")),
    Defect(
        "arguments_as_object",
        "club-3090#1195: func_args_not_string",
        Fault(chunks=arguments_as_objects),
        gets("same", "healed"),
        SERVER,
    ),
    Defect(
        "finish_stop_with_calls",
        "ours; named tool choice in vllm's source",
        edited(finish_says_stop),
        gets("same"),
        NOBODY,
    ),
    # fields
    Defect(
        "ids_of_something_else",
        "ours",
        edited(ids_of_something_else),
        gets("same", "healed"),
        dialects=("vllm", "sglang"),
    ),
    Defect(
        "ids_now_and_then",
        "vllm source: include_reasoning",
        Fault(chunks=fewer_ids),
        gets("same"),
        NOBODY,
        dialects=("vllm", "sglang"),
    ),
    Defect(
        "thinking_as_reasoning",
        "vllm#50624, #33402",
        renamed("reasoning"),
        gets("same"),
        NOBODY,
        ("sglang", "llamacpp", "openai"),
    ),
    Defect(
        "thinking_as_reasoning_content",
        "vllm before 0.9",
        renamed("reasoning_content"),
        gets("same"),
        NOBODY,
        ("vllm",),
    ),
    Defect("thinking_under_both_names", "ours; proxies that help", edited(both_names), gets("same"), NOBODY),
    Defect("role_in_every_chunk", "llama.cpp and vllm of 2024", edited(role_everywhere), gets("same"), NOBODY),
    Defect("usage_missing", "clients.md: `enable-force-include-usage`", Fault(chunks=usage_gone), gets("same"), NOBODY),
    Defect(
        "chunks_without_choices",
        "ours; usage and ping chunks of routers",
        Fault(chunks=without_choices),
        gets("same"),
        NOBODY,
    ),
    Defect("content_as_parts", "ours; Mistral's shape", edited(content_as_parts), gets("same", "healed"), SERVER),
    Defect(
        "logprobs_are_no_numbers",
        "sglang source: NaN is clamped and logged only",
        edited(nan_logprobs),
        gets("same", "healed"),
    ),
    # errors in a stream
    Defect(
        "error_at_once",
        "vllm source: error object inside HTTP 200",
        at_once(error("EngineCore died"), ends_after_error),
        gets("healed"),
        SERVER,
    ),
    Defect(
        "error_after_text",
        "vllm#44006: `Failed to advance FSM`; vllm#40756",
        after("content", error("Unexpected: grammar rejected tokens"), ends_after_error),
        gets("healed", "ended"),
        SERVER,
    ),
    Defect(
        "error_inside_call",
        "llama.cpp#27025, #26381",
        after("tool_calls", error(PEG), ends_after_error),
        gets("healed", "ended"),
        SERVER,
    ),
    Defect(
        "error_as_text",
        "ours: a string where an object is expected",
        after("content", {"error": "out of memory"}, Signal.CLOSE),
        gets("healed", "ended"),
        SERVER,
    ),
    # ends of a connection
    Defect(
        "reset_in_text", "vllm#50021: the engine dies", after("content", Signal.RESET), gets("healed", "ended"), SERVER
    ),
    Defect("reset_inside_call", "vllm#40756", after("tool_calls", Signal.RESET), gets("healed", "ended"), SERVER),
    Defect("reset_at_once", "vllm#50021", at_once(Signal.RESET), gets("healed"), SERVER),
    Defect(
        "closed_without_a_word",
        "clients.md: taken for a success by four clients",
        Fault(frames=until_the_finish),
        gets("healed", "ended"),
        SERVER,
    ),
    Defect("no_done", "llama.cpp source: none after errors", Fault(frames=no_done), gets("same", "healed"), SERVER),
    Defect("done_twice", "ours", Fault(frames=done_twice), gets("same"), NOBODY),
    Defect("only_comments", "ours; gateways before a timeout", Fault(frames=only_comments), gets("healed"), SERVER),
    Defect(
        "comments_between",
        "llama.cpp source: sse_ping_interval; OpenRouter",
        Fault(frames=comments_between),
        gets("same"),
        NOBODY,
    ),
    # bytes
    Defect("byte_by_byte", "ours", Fault(frames=tiny), gets("same"), NOBODY, sound=SMILES),
    Defect("all_escaped", "ours", rewritten(escaped), gets("same"), NOBODY, sound=SMILES),
    Defect(
        "half_characters",
        "ours: servers that cut by UTF-16 units",
        Fault(chunks=halves),
        gets("same", "healed", "ended"),
        SERVER,
        sound=SMILES,
        leaks="\ufffd",
    ),
    Defect(
        "bytes_that_are_no_text",
        "ours",
        rewritten(lambda frame: frame.replace(b"list", b"li\xff\xc3t")),
        gets("same", "healed", "ended"),
        SERVER,
        leaks="*",
    ),
    Defect(
        "lines_end_with_crlf",
        "the SSE standard allows it",
        rewritten(lambda f: f.replace(b"\n", b"\r\n")),
        gets("same"),
        NOBODY,
    ),
    Defect(
        "no_blank_after_data",
        "the SSE standard allows it",
        rewritten(lambda f: f.replace(b"data: ", b"data:", 1)),
        gets("same"),
        NOBODY,
    ),
    Defect("no_json", "ours", after("content", b"data: {oops\n\n"), gets("healed", "ended"), SERVER),
    Defect("deep_json", "ours", after("content", b"data: " + b"[" * MANY + b"\n\n"), gets("healed", "ended"), SERVER),
    Defect(
        "one_long_line",
        "ours: a line of 8 MiB",
        Fault(frames=one_long_line),
        gets("healed", "ended"),
        SERVER,
        leaks="*",
        slow=True,
    ),
    Defect("line_without_end", "ours", Fault(frames=line_without_end), gets("healed", "ended"), SERVER, slow=True),
    Defect("gzip", "ours; proxies in front of a server", Fault(gzip=True), gets("same", "healed"), SERVER),
    Defect("gzip_not_told", "ours", Fault(gzip=True, headers={"Content-Encoding": "identity"}), gets("healed"), SERVER),
    # HTTP
    Defect(
        "refused_500",
        "vllm: a dead engine answers at once",
        refuses(500, "EngineCore encountered an issue."),
        gets("healed"),
        SERVER,
    ),
    Defect("refused_503", "llama.cpp source: Loading model", refuses(503, "Loading model"), gets("healed"), SERVER),
    Defect(
        "refused_429",
        "routers; clients.md",
        refuses(429, "Too many requests", Retry_After="7"),
        gets("healed", "ended"),
        SERVER,
    ),
    Defect("html_502", "nginx before a dead server", page(502, HTML, "text/html"), gets("healed"), SERVER),
    Defect("html_200", "ours; captive portals and login pages", page(200, HTML, "text/html"), gets("healed"), SERVER),
    Defect(
        "whole_body_instead",
        "ours: a gateway that does not stream",
        page(200, json.dumps(BODY), "application/json"),
        gets("same", "healed"),
        SERVER,
    ),
    Defect(
        "stream_called_json",
        "ours",
        Fault(headers={"Content-Type": "application/json"}),
        gets("same", "healed"),
        SERVER,
    ),
    Defect(
        "stream_called_plain_text",
        "ours",
        Fault(headers={"Content-Type": "text/plain"}),
        gets("same", "healed"),
        SERVER,
    ),
    # without an end
    Defect(
        "stream_without_end",
        "vllm: requests that ran for 5 and 19 hours",
        Fault(chunks=endless_chunks),
        gets("healed", "ended"),
        leaks="*",
        slow=True,
    ),
    Defect(
        "many_tiny_chunks",
        "ours: 100,000 of them",
        Fault(chunks=many_tiny_chunks),
        gets("healed", "ended"),
        leaks="*",
        slow=True,
    ),
)
