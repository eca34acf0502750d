"""Wire formats: each module parses one API's requests into `proxy.conversation` and encodes `proxy.events` for it.

Must not: decide, generate, or refuse anything that a backend could honour.
"""
