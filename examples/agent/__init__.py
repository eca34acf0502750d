"""A small coding agent that repairs a Python repository over an OpenAI-compatible API."""
