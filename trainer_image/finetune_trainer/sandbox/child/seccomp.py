"""A seccomp filter: the system calls that a program may use.

See ``Documentation/userspace-api/seccomp_filter.rst`` and, in ``include/uapi/linux``, ``seccomp.h``, ``filter.h`` and
``bpf_common.h`` of Linux.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence

from finetune_trainer.sandbox.child.system_calls import CHECKED, HARMLESS, NEWEST, UNKNOWN, WRITING, Numbers

_ARCHITECTURES = {"x86_64": (0, 0xC000003E, 317), "aarch64": (1, 0xC00000B7, 277)}
"""The column in the tables, AUDIT_ARCH_* of linux/audit.h, and the number of seccomp(2)."""

_X32 = 0x40000000
"""The bit of the numbers of the x32 interface, which runs on the architecture x86_64."""

_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _GREATER, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x54, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16

_CLONE_THREAD, _CLONE_NEW = 0x00010000, 0x7E020080
_PR_NAMES = (15, 16)
"""PR_SET_NAME and PR_GET_NAME. Not PR_SET_DUMPABLE or PR_SET_PDEATHSIG, which would undo the isolation."""
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)
"""Descriptors, flags, locks. Not F_SETOWN and F_SETSIG: with them the kernel sends a chosen signal to any process."""
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
_AF_UNIX, _SOCK_STREAM, _SOCKET_TYPES = 1, 1, 0xF

Instruction = tuple[int, int, int, int]
"""Code, the jumps if true and if false, and a constant."""


class NoSeccomp(Exception):
    """This machine cannot filter system calls; the message says why."""


def install(*, writes: bool) -> None:
    """Filter the system calls of this process and its threads; needs no_new_privs.

    Args:
        writes: Whether files may be written, because Landlock says where.

    Raises:
        NoSeccomp: The kernel or the architecture does not support it.
    """
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        raise NoSeccomp(f"there is no filter of system calls for {machine}")
    column, architecture, number = _ARCHITECTURES[machine]
    program = b"".join(struct.pack("HBBI", *step) for step in filter_program(column, architecture, os.getpid(), writes))
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    # 1: SECCOMP_SET_MODE_FILTER
    if libc.syscall(number, 1, 0, ctypes.create_string_buffer(header, len(header))):
        raise NoSeccomp(f"seccomp: {os.strerror(ctypes.get_errno())}")


def filter_program(column: int, architecture: int, pid: int, writes: bool) -> list[Instruction]:
    """The filter for a process ``pid``; see `install`."""
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, architecture),
        _return(_KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_ANY_BIT, 0, 1, _X32),
        _return(_KILL),
        (_GREATER, 0, 1, NEWEST),
        _refuse(errno.ENOSYS),
    ]
    rules: list[tuple[Numbers, dict[str, Sequence[Instruction]]]] = [
        (HARMLESS, dict.fromkeys(HARMLESS, (_return(_ALLOW),))),
        (WRITING, dict.fromkeys(WRITING, (_return(_ALLOW if writes else _ERRNO | errno.EROFS),))),
        (UNKNOWN, dict.fromkeys(UNKNOWN, (_refuse(errno.ENOSYS),))),
        (CHECKED, _checks(pid, writes)),
    ]
    for table, steps_of in rules:
        for name, numbers in table.items():
            if (number := numbers[column]) is not None:
                # The steps may replace the number, but they end with a return.
                program += [(_EQUAL, 0, len(steps_of[name]), number), *steps_of[name]]
    return [*program, _refuse(errno.EPERM)]


def _checks(pid: int, writes: bool) -> dict[str, Sequence[Instruction]]:
    """What decides about each of CHECKED."""
    myself = _one_of(0, (pid,))
    return {
        "fork": [_refuse(errno.EAGAIN)],
        "vfork": [_refuse(errno.EAGAIN)],
        # Only a thread, in the same namespaces.
        "clone": [
            _argument(0),
            (_ANY_BIT, 0, 2, _CLONE_THREAD),
            (_ANY_BIT, 1, 0, _CLONE_NEW),
            _return(_ALLOW),
            _refuse(errno.EAGAIN),
        ],
        "kill": myself,
        "tgkill": myself,
        "prlimit64": _one_of(0, (0, pid)),
        "prctl": _one_of(0, _PR_NAMES),
        "fcntl": _one_of(1, _FCNTL_COMMANDS),
        "ioctl": _one_of(1, _IOCTLS, errno.ENOTTY),
        # A pair of stream sockets has no address to send to; event loops need one.
        "socketpair": [
            _argument(0),
            (_EQUAL, 0, 4, _AF_UNIX),
            _argument(1),
            (_AND, 0, 0, _SOCKET_TYPES),
            (_EQUAL, 0, 1, _SOCK_STREAM),
            _return(_ALLOW),
            _refuse(errno.EPERM),
        ],
        "creat": [_return(_ALLOW if writes else _ERRNO | errno.EROFS)],
        "open": _opening(1, writes),
        "openat": _opening(2, writes),
    }


def _opening(position: int, writes: bool) -> Sequence[Instruction]:
    """Allows flags of open(2). O_TRUNC without a mode of writing truncates, and Landlock before version 3 lets it."""
    access, creating = os.O_WRONLY | os.O_RDWR, os.O_CREAT | os.O_TRUNC | (os.O_TMPFILE & ~os.O_DIRECTORY)
    if writes:
        return (
            _argument(position),
            (_ANY_BIT, 2, 0, access),
            (_ANY_BIT, 0, 1, os.O_TRUNC),
            _refuse(errno.EACCES),
            _return(_ALLOW),
        )
    # /dev/null is opened for writing by many programs, but its path cannot be seen here.
    return (_argument(position), (_ANY_BIT, 0, 1, access | creating), _refuse(errno.EROFS), _return(_ALLOW))


def _one_of(position: int, values: Sequence[int], error: int = errno.EPERM) -> Sequence[Instruction]:
    """Allows ``values`` of the lower half of an argument; the kernel ignores the upper half of these arguments."""
    steps = [_argument(position)]
    for value in values:
        steps += [(_EQUAL, 0, 1, value), _return(_ALLOW)]
    return (*steps, _refuse(error))


def _argument(position: int) -> Instruction:
    """Loads the lower half of an argument; both architectures are little-endian."""
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * position)


def _return(action: int) -> Instruction:
    return (_RETURN, 0, 0, action)


def _refuse(error: int) -> Instruction:
    return _return(_ERRNO | error)
