"""An agent made with openai-agents, run by the client's own Python.

    with_openai_agents.py chat|responses stream|whole TASK

Must not: import anything of this project. Invariant: prints one JSON object for each item of the run, then the result.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI


@function_tool
def write_file(file_path: str, content: str) -> str:
    """Writes a file."""
    Path(file_path).write_text(content)
    return "written"


async def main(api: str, way: str, task: str) -> None:
    set_tracing_disabled(True)
    kind = OpenAIChatCompletionsModel if api == "chat" else OpenAIResponsesModel
    model = kind(os.environ["OPENAI_MODEL"], AsyncOpenAI())
    agent = Agent("writer", instructions="You write files.", model=model, tools=[write_file])
    if way == "stream":
        result = Runner.run_streamed(agent, task)
        async for event in result.stream_events():
            if event.type == "raw_response_event":
                print(json.dumps(event.data.model_dump(mode="json")))
    else:
        result = await Runner.run(agent, task)
    for item in result.to_input_list():
        print(json.dumps(item))
    print(json.dumps({"final": result.final_output}))


asyncio.run(main(*sys.argv[1:]))
