"""Tells systemd what the server does (`Type=notify`), by the protocol of sd_notify(3): a datagram, no library.

Must not: fail, or wait, where nobody listens. Invariant: without `NOTIFY_SOCKET` nothing happens.
"""

from __future__ import annotations

import os
import socket

import structlog

log = structlog.get_logger()


def tell_manager(state: str) -> None:
    """state: such as `READY=1`, `STOPPING=1`, or `STATUS=` and a line for people; several, one a line."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address or not hasattr(socket, "AF_UNIX"):
        return
    if address.startswith("@"):  # an abstract one
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.setblocking(False)
            manager.connect(address)
            manager.send(state.encode())
    except OSError as error:
        log.warning("manager.not_told", state=state, reason=str(error))
