"""What `specguard bench pack` measures: seven workloads of coding agents, in one decode mode after another, over HTTP.

Must not: be imported by a server.
"""
