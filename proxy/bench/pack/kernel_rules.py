"""Rules that the Linux kernel keeps for a process and all it starts: which files it reads, what it may ask the system.

Nothing is written anywhere, and nothing is read but one folder and Python itself: what code reads can come back in the
text of an error, and so reach the model that wrote the code. No further process, so that limits for one hold for all;
no signal, socket or name space.

Must not: import anything of this project: `sandboxed` loads it by its path, in an isolated Python.
Invariant: what a system does not know is left out, never an error; a rule cannot be taken back. Sources: the kernel's
pages landlock(7), seccomp(2), and its tables of system calls.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

CREATE_RULES, ADD_RULE, RESTRICT = 444, 445, 446  # of Landlock, on every machine
NO_MORE_RIGHTS, SET_SECCOMP, FILTER = 38, 22, 2  # of prctl
READ_FILE, READ_FOLDER, REMOVE_FILE, WRITE_FILE = 1 << 2, 1 << 3, 1 << 5, 1 << 1
BENEATH = 1
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo")
FILES = ("/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/urandom")

# system calls: socket, execve, execveat, kill, tkill, tgkill, two that queue signals, ptrace, two that read and write
# others' memory, unshare, setns, io_uring_setup (which does all of this in another way), pidfd_open; fork and vfork
REFUSED = {
    "x86_64": (41, 59, 322, 62, 200, 234, 129, 297, 101, 310, 311, 272, 308, 425, 434, 57, 58),
    "aarch64": (198, 221, 281, 129, 130, 131, 138, 240, 117, 270, 271, 97, 268, 425, 434),
}
CLONE = {"x86_64": 56, "aarch64": 220}
CLONE3 = 435
MACHINE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
OTHER_NUMBERS = 0x40000000  # the same calls of x86-64 once more
A_THREAD = 0x10000  # of clone
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, WHERE, FIRST_ARGUMENT = 0, 4, 16  # in what a filter sees
ALLOW, REFUSE = 0x7FFF0000, 0x00050000


def read_only(folder: Path) -> bool:
    """Of all files, this folder and Python are read, and files of the folder removed; False where there is no
    Landlock."""
    if sys.platform != "linux":
        return False
    call = ctypes.CDLL(None, use_errno=True).syscall
    version = int(call(CREATE_RULES, None, 0, 1))
    if version < 1:
        return False
    handled = (1 << 13) - 1 | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    network, scoped = (3 if version >= 4 else 0), (3 if version >= 6 else 0)  # TCP; abstract sockets and signals
    asked = struct.pack("=QQQ", handled, network, scoped)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    rules = int(call(CREATE_RULES, asked, len(asked), 0))
    if rules < 0:
        return False
    _allow(call, rules, [folder], READ_FILE | READ_FOLDER | REMOVE_FILE)
    python = {Path(os.__file__).parent, Path(sys.base_prefix) / "lib", Path(sys.base_exec_prefix) / "lib"}
    _allow(call, rules, [*python, *map(Path, LIBRARIES)], READ_FILE | READ_FOLDER)
    _allow(call, rules, map(Path, FILES), READ_FILE)
    _allow(call, rules, [Path(os.devnull)], READ_FILE | WRITE_FILE)
    _prctl(NO_MORE_RIGHTS, 1)
    done = int(call(RESTRICT, rules, 0)) == 0
    os.close(rules)
    return done


def _allow(call: Any, rules: int, places: Iterable[Path], what: int) -> None:
    for place in places:
        with suppress(OSError):  # it is not there
            file = os.open(place, os.O_PATH | os.O_CLOEXEC)
            call(ADD_RULE, rules, BENEATH, struct.pack("=Qi", what, file), 0)
            os.close(file)


def stay_one() -> bool:
    """No further process, signal, socket or name space; threads are let be. False where the kernel has no filters."""
    machine = os.uname().machine if sys.platform == "linux" else ""
    if machine not in MACHINE:
        return False
    program = b"".join(_steps(machine))
    held = ctypes.create_string_buffer(program)
    told = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(held))
    _prctl(NO_MORE_RIGHTS, 1)
    return int(ctypes.CDLL(None).prctl(SET_SECCOMP, FILTER, told, 0, 0)) == 0


def _steps(machine: str) -> Iterable[bytes]:
    refuse = _step(RETURN, REFUSE | errno.EPERM)
    yield _step(LOAD, WHERE)
    yield _step(EQUAL, MACHINE[machine], 1, 0)
    yield refuse
    yield _step(LOAD, NUMBER)
    yield _step(AT_LEAST, OTHER_NUMBERS, 0, 1)
    yield refuse
    for number in REFUSED[machine]:
        yield _step(EQUAL, number, 0, 1)
        yield refuse
    yield _step(EQUAL, CLONE3, 0, 1)
    yield _step(RETURN, REFUSE | errno.ENOSYS)  # its flags cannot be seen; then the C library takes clone
    yield _step(EQUAL, CLONE[machine], 1, 0)
    yield _step(RETURN, ALLOW)
    yield _step(LOAD, FIRST_ARGUMENT)
    yield _step(ANY_BIT, A_THREAD, 1, 0)
    yield refuse
    yield _step(RETURN, ALLOW)


def _step(code: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_so, if_not, value)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
