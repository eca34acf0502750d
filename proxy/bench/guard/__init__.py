"""What `specguard bench guard` measures: planted faults against the guard, false alarms, and what the guard costs.

Must not: be imported by a server.
"""
