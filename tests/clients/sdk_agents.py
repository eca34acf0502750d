"""Small agents made of the official Python SDKs, one for each API: ask, run the calls, send the results, until done.

Must not: retry, or put together by hand what an SDK puts together itself.
Invariant: what an agent returns does not depend on how text was cut into pieces, or on ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openai.lib.streaming.chat import ChatCompletionStreamState

from tests.proxy.live import Live

Act = Callable[[str, Mapping[str, Any]], str]
MOST_TURNS, MOST_TOKENS = 12, 512


@dataclass(frozen=True, slots=True)
class Job:
    """tools: as the chat API declares them. act: runs a call and gives its result. stream: or ask for whole bodies."""

    model: str
    system: str
    task: str
    tools: Sequence[Mapping[str, Any]]
    act: Act
    stream: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """What the SDK made of one response. end: as the API calls it; tokens: of the prompt and of the response."""

    text: str
    calls: tuple[tuple[str, str], ...]
    end: str | None
    tokens: tuple[int, int]

    @property
    def content(self) -> tuple[Any, ...]:
        """What all APIs tell alike."""
        return self.text, self.calls, self.tokens


async def chat(live: Live, job: Job) -> list[Turn]:
    messages: list[Any] = [{"role": "system", "content": job.system}, {"role": "user", "content": job.task}]
    turns: list[Turn] = []
    async with live.openai() as sdk:
        while len(turns) < MOST_TURNS:
            asked: dict[str, Any] = {"model": job.model, "messages": messages, "tools": job.tools}
            asked |= {"temperature": 0, "max_tokens": MOST_TOKENS}
            if job.stream:
                state = ChatCompletionStreamState()
                async for chunk in await sdk.chat.completions.create(
                    **asked, stream=True, stream_options={"include_usage": True}
                ):
                    state.handle_chunk(chunk)
                answer: Any = state.get_final_completion()
            else:
                answer = await sdk.chat.completions.create(**asked)
            (choice,) = answer.choices
            calls = choice.message.tool_calls or []
            turns.append(
                Turn(
                    choice.message.content or "",
                    tuple((call.function.name, call.function.arguments) for call in calls),
                    choice.finish_reason,
                    (answer.usage.prompt_tokens, answer.usage.completion_tokens),
                )
            )
            if not calls:
                break
            messages.append(choice.message.model_dump(exclude_none=True))
            for call in calls:
                result = job.act(call.function.name, json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return turns


async def responses(live: Live, job: Job) -> list[Turn]:
    items: list[Any] = [{"role": "user", "content": job.task}]
    tools = [{"type": "function", "strict": False, **tool["function"]} for tool in job.tools]
    turns: list[Turn] = []
    async with live.openai() as sdk:
        while len(turns) < MOST_TURNS:
            asked: dict[str, Any] = {"model": job.model, "instructions": job.system, "input": items, "tools": tools}
            asked |= {"temperature": 0, "max_output_tokens": MOST_TOKENS, "store": False}
            if job.stream:
                async with sdk.responses.stream(**asked) as stream:
                    answer: Any = await stream.get_final_response()
            else:
                answer = await sdk.responses.create(**asked)
            calls = [item for item in answer.output if item.type == "function_call"]
            turns.append(
                Turn(
                    answer.output_text,
                    tuple((call.name, call.arguments) for call in calls),
                    answer.status,
                    (answer.usage.input_tokens, answer.usage.output_tokens),
                )
            )
            if not calls:
                break
            # parsed_arguments is what the SDK adds for its caller
            items += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in answer.output]
            for call in calls:
                result = job.act(call.name, json.loads(call.arguments))
                items.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
    return turns


async def messages(live: Live, job: Job) -> list[Turn]:
    history: list[Any] = [{"role": "user", "content": job.task}]
    declared = [tool["function"] for tool in job.tools]
    tools: list[Any] = [
        {"name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"]}
        for tool in declared
    ]
    turns: list[Turn] = []
    async with live.anthropic() as sdk:
        while len(turns) < MOST_TURNS:
            asked: dict[str, Any] = {"model": job.model, "system": job.system, "messages": history, "tools": tools}
            # this SDK knows no temperature any more; models of its maker refuse one
            asked |= {"extra_body": {"temperature": 0}, "max_tokens": MOST_TOKENS}
            if job.stream:
                async with sdk.messages.stream(**asked) as stream:
                    answer: Any = await stream.get_final_message()
            else:
                answer = await sdk.messages.create(**asked)
            calls = [block for block in answer.content if block.type == "tool_use"]
            turns.append(
                Turn(
                    "".join(block.text for block in answer.content if block.type == "text"),
                    tuple((call.name, _compact(call.input)) for call in calls),
                    answer.stop_reason,
                    (
                        answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0),
                        answer.usage.output_tokens,
                    ),
                )
            )
            if not calls:
                break
            history.append({"role": "assistant", "content": answer.content})
            results = [
                {"type": "tool_result", "tool_use_id": call.id, "content": job.act(call.name, call.input)}
                for call in calls
            ]
            history.append({"role": "user", "content": results})
    return turns


def _compact(arguments: object) -> str:
    return json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))


AGENTS: Mapping[str, Callable[[Live, Job], Any]] = {"chat": chat, "responses": responses, "messages": messages}
