"""`specguard bench overhead`: what a response costs on its way through the server, beside asking the source directly.

    direct    client -> source
    bare hop  client -> a process that passes bytes on -> source
    specguard client -> this server (parse, session, detectors, hold-back, encode) -> source
    litellm   client -> LiteLLM proxy -> source

The source (`source.py`) is a process that streams a written text at a fixed pace. All arms take their text from it by
HTTP, so both proxies are one hop more, and each forwards the whole request. Every process is one Python interpreter.
What is not in it: an engine. The guard watches text without an engine's numbers, nothing trips, and no call is held.
"""
