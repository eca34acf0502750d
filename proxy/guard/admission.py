"""What a request must fulfil before anything is generated for it.

Must not: look at the messages, or start anything.
Invariant: whoever is admitted asks for nothing that its backend cannot do.
"""

from __future__ import annotations

from detectors.tool_schema import BadSchema, ToolSchemas
from proxy.backends.base import Capabilities
from proxy.backends.errors import BadPrompt
from proxy.conversation import ChatRequest, Demands


def admit(request: ChatRequest, capabilities: Capabilities) -> ToolSchemas:
    """The declared tools, compiled. Raises BadPrompt naming the field."""
    if request.logprobs is not None and not capabilities.logprobs:
        raise BadPrompt("logprobs: this backend cannot tell them; leave the field out", "logprobs")
    if request.demands != Demands() and not capabilities.constraints:
        field = request.demands.text_schema_at or "tool_choice"
        raise BadPrompt(f"{field}: this backend cannot enforce it; leave it out", field)
    try:
        return ToolSchemas.compile([(tool.name, tool.parameters) for tool in request.tools])
    except BadSchema as error:
        raise BadPrompt(str(error)) from error
