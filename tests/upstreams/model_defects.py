"""Defects of what is said: loops, markup in the wrong place, calls whose arguments are not what the model meant.

Must not: touch bytes or HTTP. Invariant: each is a stream that any HTTP client reads as a success.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import chain, count, repeat

from tests.proxy.scripted import token_id
from tests.upstreams.defects import ENGINE, Defect, gets
from tests.upstreams.faults import Fault
from tests.upstreams.lanes import Asked
from tests.upstreams.replies import WORDS, Call, CallPart, Piece, Reply, Text, Thinking, markup

LS = Call("ls", {"path": "src"})
Says = Callable[[Reply, Asked], Reply]
CASCADE_WORDS = 2000


def with_call(call: Call) -> Fault:
    """The same response with another call."""
    return Fault(says=lambda reply, asked: Reply((*reply.parts[:-1], call), reply.end))


def written(arguments: str, body: str, name: str = "ls") -> Fault:
    """The parsers make `arguments` of what the model has written between the tags."""
    said = f"<tool_call>\n<function={name}>\n{body}</function>\n</tool_call>"
    return with_call(Call(name, {}, arguments, said))


def then_text(text: str) -> Fault:
    """Instead of the call."""
    return Fault(says=lambda reply, asked: Reply((*reply.parts[:-1], Text(text))))


def thinks(text: str) -> Fault:
    """Instead of all that follows the thinking."""
    return Fault(says=lambda reply, asked: Reply((Thinking("I look.\n" + text),)))


def piece(word: str, shown: str | None = None) -> Piece:
    number = token_id(word)
    WORDS[number] = word
    return Piece(number, word, None if shown is None else ("text", shown))


def before_calls(stream: Iterator[Piece], instead: Iterator[Piece]) -> Iterator[Piece]:
    for one in stream:
        if one.text == "<tool_call>":
            yield from instead
            return
        yield one


def in_arguments(word: str, after: str = '{"path": "') -> Fault:
    """The first call's arguments begin with `after` and go on with `word` for ever."""

    def endless(stream: Iterator[Piece]) -> Iterator[Piece]:
        number = token_id(word)
        WORDS[number] = word
        for one in stream:
            yield one
            if one.shown is not None and one.shown[0] == "call":
                break
        begun = CallPart(0, "ls", after)
        yield Piece(token_id("<parameter=path>"), "<parameter=path>\n", ("call", begun))
        yield from repeat(Piece(number, word, ("call", CallPart(0, "ls", word))))

    return Fault(pieces=endless)


def cascade(shown: bool) -> Fault:
    """`<tool_call>` without an end: as text, or swallowed by the parsers, so that nothing but its ids is to be seen."""
    tag = piece("<tool_call>", "<tool_call>" if shown else None)
    return Fault(pieces=lambda stream: before_calls(stream, iter([tag] * CASCADE_WORDS)))


def swallowed_block() -> Fault:
    """A call in a form that the parsers drop, then a normal end."""
    words = "<tool_call>\n<<tool_code>\nprint(ls('src')) # all of what is in this folder, please\n</tool_call>".split(
        " "
    )
    block = [piece(word) for word in words * 3]
    return Fault(pieces=lambda stream: before_calls(stream, iter(block)))


def prose(words: int, seed: int = 7) -> Iterator[str]:
    """Words without a pattern that a loop detector could find."""
    drawn = random.Random(seed)
    syllables = "ba ce di fo gu ha je ki lo mu na pe qi ro su ta ve wi xo yu za".split()
    for number in count() if words < 0 else range(words):
        word = "".join(drawn.choices(syllables, k=drawn.randint(1, 4)))
        yield word + (".\n" if number % 17 == 16 else " ")


def endless_text(stream: Iterator[Piece]) -> Iterator[Piece]:
    more = (piece(word, word) for word in prose(-1))
    return chain(before_calls(stream, iter(())), more)


PERIOD = "x86 is:66 is "
MODEL_DEFECTS = (
    # loops
    Defect("cascade_swallowed", "vllm#40831, and its parser (run)", cascade(False), gets("healed"), dialects=("vllm",)),
    Defect(
        "cascade_as_text",
        "vllm#40831; llama.cpp source (run): the trigger needs a newline",
        cascade(True),
        gets("healed"),
        dialects=("llamacpp", "openai", "sglang"),
    ),
    Defect(
        "nan_bangs",
        "sglang: MiaAI#19, fp8 cache and rejection sampling",
        then_text("!" * 3000),
        gets("healed", "ended"),
        dialects=("sglang", "vllm"),
        leaks="!",
    ),
    Defect(
        "nan_slashes",
        "llama.cpp#23577, #23606, #22230",
        then_text("/" * 3000),
        gets("healed", "ended"),
        dialects=("llamacpp", "openai"),
        leaks="/",
    ),
    Defect(
        "nan_in_thinking", "llama.cpp#23577", thinks("/" * 3000), gets("healed", "ended"), dialects=("llamacpp", "vllm")
    ),
    Defect(
        "token_zero_nothing_accepted",
        "sglang#36537: accept len 1.00, accept rate 0.00",
        then_text("!" * 3000),
        gets("healed", "ended"),
        dialects=("sglang",),
        accepts=0.0,
        leaks="!",
    ),
    Defect(
        "period_all_accepted",
        "vllm#55506, #47087: acceptance 1.000 during the loop",
        then_text(PERIOD * 400),
        gets("healed", "ended"),
        dialects=("vllm", "llamacpp"),
        accepts=1.0,
        leaks=PERIOD,
    ),
    Defect(
        "thinking_loops",
        "vllm#55357; prime-agent#1029: 79,000 characters of `The the`",
        thinks("The the " * 600),
        gets("healed", "ended"),
    ),
    Defect("arguments_loop", "vllm#40831: amber amber", in_arguments("amber "), gets("healed")),
    Defect("nan_in_arguments", "llama.cpp#23577", in_arguments("/"), gets("healed"), dialects=("llamacpp", "vllm")),
    Defect(
        "whitespace_in_arguments",
        "vllm#38696, #44619, #55313: 250,000 spaces and HTTP 200",
        in_arguments("  \n", '{"path": "src"'),
        gets("healed"),
    ),
    # markup in the wrong place
    Defect(
        "call_block_swallowed",
        "vllm#40831 (its n-gram half), and the parser (run)",
        swallowed_block(),
        gets("healed"),
        dialects=("vllm",),
    ),
    Defect(
        "call_in_text",
        "vllm#36435, #29725; QwenLM/qwen-code#8003; ollama#16686",
        then_text(markup(LS)),
        gets("healed"),
    ),
    Defect(
        "call_in_text_without_opener",
        "ollama#16686",
        then_text(markup(LS).removeprefix("<tool_call>\n")),
        gets("healed"),
    ),
    Defect("call_in_thinking", "lmstudio#1602", thinks(markup(LS)), gets("healed", "ended")),
    Defect(
        "markup_in_arguments",
        "vllm#40831: `<parameter=parameter=>`; llama-swap#856: `</parameter>` twice",
        written(
            '{"path": "src\\n</parameter>\\n<parameter=all>\\ntrue"}',
            "<parameter=path>\nsrc\n</parameter>\n<parameter=all>\ntrue\n</parameter>\n",
        ),
        gets("healed"),
    ),
    # arguments that are not what the model meant
    Defect("arguments_empty", "vllm#56077, #41967; llama.cpp source", written("{}", ""), gets("healed")),
    Defect(
        "command_in_key",
        "vllm#56077",
        written('{"command=ls": ""}', "<parameter=command=ls>\n</parameter>\n"),
        gets("healed"),
    ),
    Defect(
        "parameter_in_key",
        "vllm#40831, and its parser (run)",
        written('{"parameter=path": "src"}', "<parameter=parameter=path>\nsrc\n</parameter>\n"),
        gets("healed"),
    ),
    Defect("name_mangled", "vllm#56077", with_call(Call('ls command="ls"', {"path": "src"})), gets("healed")),
    Defect(
        "name_unknown",
        "sglang source: SGLANG_FORWARD_UNKNOWN_TOOLS",
        with_call(Call("list", {"path": "src"})),
        gets("healed"),
    ),
    Defect(
        "value_of_another_type", "sglang source: booleans degenerate", written('{"path": false}', ""), gets("healed")
    ),
    Defect("double_brace", "vllm#36138, #44006", written('{{"path": "src"}', ""), gets("healed")),
    Defect("dumped_twice", "vllm#35421, #35615", written('"{\\"path\\": \\"src\\"}"', ""), gets("healed")),
    Defect("arguments_are_no_json", "llama.cpp#27025, openclaw#38569", written("path=src", ""), gets("healed")),
    Defect("two_objects", "vercel/ai#13137, #16838", written('{"path": "src"}{"path": "tests"}', ""), gets("healed")),
    Defect(
        "same_call_again_and_again",
        "vllm#40831",
        Fault(says=lambda reply, asked: Reply((*reply.parts[:-1], *[LS] * 40))),
        gets("healed", "ended"),
        repeats=True,
    ),
    # ends
    Defect("nothing_at_all", "picoclaw#966", Fault(says=lambda reply, asked: Reply(())), gets("healed", "ended")),
    Defect("thinking_only", "lmstudio#1602, hermes-agent#109205", thinks(""), gets("healed", "ended")),
    Defect(
        "finish_repetition",
        "vllm#35451",
        Fault(says=lambda reply, asked: Reply((*reply.parts[:-1], Text("and on " * 3)), "repetition")),
        gets("healed", "ended"),
        dialects=("vllm",),
        leaks="and on ",
    ),
    Defect(
        "finish_abort",
        "vllm and sglang sources",
        Fault(says=lambda reply, asked: Reply(reply.parts[:-1], "abort")),
        gets("healed", "ended"),
        dialects=("vllm", "sglang"),
    ),
    Defect(
        "finish_null",
        "vllm source: Anthropic stop_reason null",
        Fault(says=lambda reply, asked: Reply(reply.parts[:-1], None)),
        gets("healed", "ended"),
    ),
    Defect(
        "length_inside_call",
        "llama.cpp source (run): arguments `{`, finish_reason length",
        Fault(
            says=lambda reply, asked: Reply(
                (*reply.parts[:-1], Call("ls", {}, '{"path": "sr', "<tool_call>\n<function=ls>\n<parameter=path>\nsr")),
                "length",
            )
        ),
        gets("healed", "ended"),
        blames=ENGINE | {"model"},
    ),
    Defect(
        "text_without_an_end",
        "vllm: requests that ran for 5 and 19 hours",
        Fault(pieces=endless_text),
        gets("ended"),
        leaks="*",
        blames=ENGINE | {"model"},
    ),
)
