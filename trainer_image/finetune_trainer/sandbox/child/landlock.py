"""Landlock: the files that a process may reach.

See ``Documentation/userspace-api/landlock.rst`` and ``include/uapi/linux/landlock.h`` of Linux.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""Numbers of the system calls, the same on every architecture."""

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_OF_FILES_SYSTEM = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF}
"""The rights of files that a version knows. From version 5 also IOCTL_DEV."""
_NEWEST_FILES = 0xFFFF
_NETWORK = 0x3
"""From version 4: binding and connecting TCP sockets."""
_SCOPES = 0x3
"""From version 6: abstract Unix sockets, and signals, stay within the domain."""
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | (1 << 14)
"""Rights that a rule for something other than a folder may have."""


def version() -> int:
    """The version of Landlock's interface; 0 if the kernel lacks it."""
    return max(0, _call(_CREATE_RULESET, None, 0, 1))


def restrict(readable: Iterable[str | int], writable: Iterable[str | int]) -> None:
    """Restrict this process to files below ``readable`` (reading, executing) and ``writable`` (everything).

    Paths that do not exist are left out; a number is an open descriptor. Needs no_new_privs.

    Raises:
        OSError: The kernel refuses it.
    """
    abi = version()
    files = _OF_FILES_SYSTEM.get(abi, _NEWEST_FILES)
    attributes = struct.pack("QQQ", files, _NETWORK if abi >= 4 else 0, _SCOPES if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _checked(_call(_CREATE_RULESET, ctypes.create_string_buffer(attributes, 24), size, 0))
    for path in readable:
        _allow(ruleset, path, _EXECUTE | _READ_FILE | _READ_DIR)
    for path in writable:
        _allow(ruleset, path, files & ~_EXECUTE)
    _checked(_call(_RESTRICT_SELF, ruleset, 0, 0))
    os.close(ruleset)


def _allow(ruleset: int, path: str | int, rights: int) -> None:
    try:
        descriptor = os.dup(path) if isinstance(path, int) else os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(descriptor):
            rights &= _OF_A_FILE
        rule = struct.pack("=Qi", rights, descriptor)
        # 1: LANDLOCK_RULE_PATH_BENEATH
        _checked(_call(_ADD_RULE, ruleset, 1, ctypes.create_string_buffer(rule, len(rule)), 0))
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    result: int = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    return result


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock: {os.strerror(error)}")
    return result
