"""The command `specguard`: one module per subcommand, what they show and what they return.

Must not: decide anything; each hands on to the part that it is named after.
Invariant: `main` alone knows all of them, and imports each only when it is asked for.
"""
