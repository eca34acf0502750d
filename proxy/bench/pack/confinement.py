"""Takes from a process what code that nobody trusts must not have: network, files, memory, time, others' processes.

Must not: import anything of this project: `sandboxed` loads it by its path, in an isolated Python.
Invariant: what a system does not allow is left out, never an error; what is given up is not had again.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

MOST_FILES = 64
NEW_FILES, NEW_USER, NEW_PROCESSES, NEW_NETWORK = 0x20000, 0x10000000, 0x20000000, 0x40000000
KILLED_WITH_PARENT, UNREADABLE, NO_MORE_RIGHTS = 1, 4, 38  # of prctl
SET_RIGHTS = {"x86_64": 126, "aarch64": 91}
RIGHTS_VERSION = 0x20080522
MOUNT_SETATTR, HERE, RECURSIVE, READ_ONLY = 442, -100, 0x8000, 1
BIND, PRIVATE, ALL = 0x1000, 0x40000, 0x4000  # of mount


def confine(seconds: int, mib: int) -> bool:
    """Hard limits for what this process and its children may take; returns whether the network is out of reach."""
    try:
        import resource
    except ImportError:  # not a Unix
        return False
    for name, limit in (
        ("RLIMIT_CPU", seconds),
        ("RLIMIT_AS", mib << 20),
        ("RLIMIT_FSIZE", 1 << 20),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_NOFILE", MOST_FILES),
    ):
        number = getattr(resource, name)
        most = resource.getrlimit(number)[1]
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
        try:
            resource.setrlimit(number, (limit, limit))
        except (OSError, ValueError):  # some systems do not know it
            continue
    return _without_network()


def _without_network() -> bool:
    """Into a name space in which there is no network; Linux, where it is allowed."""
    return _unshared(NEW_NETWORK)


def _unshared(what: int) -> bool:
    """Into name spaces of its own; False where that is not allowed."""
    try:
        unshare = ctypes.CDLL(None, use_errno=True).unshare
    except (OSError, AttributeError):
        return False
    return int(unshare(NEW_USER | what)) == 0 or int(unshare(what)) == 0


def keep_out(folder: Path) -> None:
    """Nothing but the folder can be written, where that is allowed."""
    if not _unshared(NEW_FILES):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    here = bytes(folder)
    libc.mount(b"none", b"/", None, ALL | PRIVATE, None)
    if libc.mount(here, here, None, BIND, None):
        return
    wanted = (ctypes.c_uint64 * 4)(READ_ONLY, 0, 0, 0)  # set, cleared, propagation, name space of users
    libc.syscall(MOUNT_SETATTR, HERE, b"/", RECURSIVE, ctypes.byref(wanted), ctypes.sizeof(wanted))
    wanted = (ctypes.c_uint64 * 4)(0, READ_ONLY, 0, 0)
    libc.syscall(MOUNT_SETATTR, HERE, here, 0, ctypes.byref(wanted), ctypes.sizeof(wanted))
    os.chdir(folder)  # the one that is mounted now


def alone() -> None:
    """Returns in a process with which all that it starts is ended, however it was started, where that is allowed."""
    if not _unshared(NEW_PROCESSES):
        return
    if child := os.fork():
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    ctypes.CDLL(None).prctl(KILLED_WITH_PARENT, 9, 0, 0, 0)


def keep_memory() -> None:
    """Nobody of the same user can read or change this process and its files by way of /proc, or trace it."""
    _prctl(UNREADABLE, 0)


def give_up_rights() -> None:
    """Of a root in its own name space, too: it could read the process that compares."""
    _prctl(NO_MORE_RIGHTS, 1)
    number = SET_RIGHTS.get(os.uname().machine) if sys.platform == "linux" else None
    if number is not None:
        header, none = (ctypes.c_uint32 * 2)(RIGHTS_VERSION, 0), (ctypes.c_uint32 * 6)()
        ctypes.CDLL(None).syscall(number, header, none)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
