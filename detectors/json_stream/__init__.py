"""Checks a JSON value against its schema while the value streams in, byte by byte.

Must not: import anything else of ours, decide what a trip leads to, or fetch a reference.
Invariant: what is still alive may become valid as far as the schema's checks can tell; what is a beginning of a
valid value never trips.

    trip.py         what a trip says, and which classes may trip
    nodes.py        one schema object as numbered checks; constants become structure
    references.py   which schema a `$ref` names
    plan.py         the nodes that look at one place of the value, and the logic between them
    exactness.py    whether a schema is checked to the byte
    compiled.py     a schema ready for use, cached by its content
    evaluation.py   the three-valued verdicts of the open places
    strings.py      what a string may still become
    automaton.py    bytes to values: `JsonStream`, the way in
    repair.py       mends the end of a complete value, if asked to
"""
