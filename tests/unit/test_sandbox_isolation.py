"""The walls around a program, seen from machine code: what Python forbids itself does not count here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.sandbox.child import landlock, seccomp
from finetune_trainer.sandbox.child.system_calls import CHECKED, HARMLESS, UNKNOWN, WRITING
from finetune_trainer.sandbox.process import _PYTHON, _SOURCES

EPERM, EACCES, EAGAIN, ENOSYS, EROFS, ENOTTY = 1, 13, 11, 38, 30, 25

PROBE = """
import ctypes, json, os, sys
sys.path.insert(0, {sources!r})
from finetune_trainer.sandbox.child import isolation, landlock
if not {landlock}:
    landlock.version = lambda: 0
parent = os.getppid()
before = open("old", "w+b")
words = isolation.isolate()
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(number, *[a if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments])
    return ctypes.get_errno() if result == -1 else 0
def opened(path, flags):
    try:
        os.close(os.open(path, flags, 0o600))
        return 0
    except OSError as error:
        return error.errno
found = {{}}
{calls}
print(json.dumps([words, found]))
"""

X86_64 = os.uname().machine == "x86_64"

CALLS = {
    "socket": ("call(41, 2, 1, 0)", EPERM),
    "socket_unix": ("call(41, 1, 1, 0)", EPERM),
    "socketpair_of_datagrams": ("call(53, 1, 2, 0, 0)", EPERM),
    "connect": ("call(42, 0, 0, 0)", EPERM),
    "sendmsg": ("call(46, 0, 0, 0)", EPERM),
    "fork": ("call(57)", EAGAIN),
    "vfork": ("call(58)", EAGAIN),
    "clone_of_a_process": ("call(56, 17, 0, 0, 0, 0)", EAGAIN),
    "clone_of_a_process_sharing_memory": ("call(56, 0x4100 | 17, 0, 0, 0, 0)", EAGAIN),
    "clone_into_a_namespace": ("call(56, 0x10000000 | 0x10f00, 0, 0, 0, 0)", EAGAIN),
    "clone3": ("call(435, 0, 0)", ENOSYS),
    "execve": ("call(59, b'/bin/true', 0, 0)", EPERM),
    "execveat": ("call(322, 0, b'', 0, 0, 0)", EPERM),
    "ptrace": ("call(101, 16, parent, 0, 0)", EPERM),
    "process_vm_readv": ("call(310, parent, 0, 0, 0, 0, 0)", EPERM),
    "kill_the_parent": ("call(62, parent, 0)", EPERM),
    "kill_all": ("call(62, -1, 0)", EPERM),
    "kill_the_group": ("call(62, 0, 0)", EPERM),
    "kill_itself": ("call(62, os.getpid(), 0)", 0),
    "tkill": ("call(200, parent, 0)", EPERM),
    "tgkill_the_parent": ("call(234, parent, parent, 0)", EPERM),
    "rt_sigqueueinfo": ("call(129, parent, 0, 0)", EPERM),
    "pidfd_open": ("call(434, parent, 0)", EPERM),
    "pidfd_send_signal": ("call(424, 0, 9, 0, 0)", EPERM),
    "pidfd_getfd": ("call(438, 0, 0, 0)", EPERM),
    "prlimit_of_the_parent": ("call(302, parent, 7, 0, 0)", EPERM),
    "prlimit_of_itself": ("call(302, 0, 7, 0, 0)", 0),
    "prctl_dumpable": ("call(157, 4, 1, 0, 0, 0)", EPERM),
    "prctl_death_signal": ("call(157, 1, 0, 0, 0, 0)", EPERM),
    "fcntl_owner": ("call(72, 0, 8, parent)", EPERM),
    "fcntl_signal": ("call(72, 0, 10, 9)", EPERM),
    "ioctl_type_into_terminal": ("call(16, 0, 0x5412, b'x')", ENOTTY),
    "setpriority": ("call(141, 2, os.getuid(), 19)", EPERM),
    "setuid": ("call(105, 0)", EPERM),
    "setpgid": ("call(109, 0, 0)", EPERM),
    "bpf": ("call(321, 0, 0, 0)", EPERM),
    "keyctl": ("call(250, 0, 0)", EPERM),
    "add_key": ("call(248, b'user', b'a', b'b', 1, -3)", EPERM),
    "mount": ("call(165, b'a', b'b', b'tmpfs', 0, 0)", EPERM),
    "unshare": ("call(272, 0x10000000)", EPERM),
    "setns": ("call(308, 0, 0)", EPERM),
    "chroot": ("call(161, b'.')", EPERM),
    "userfaultfd": ("call(323, 0)", EPERM),
    "io_uring_setup": ("call(425, 1, 0)", EPERM),
    "perf_event_open": ("call(298, 0, 0, -1, -1, 0)", EPERM),
    "memfd_create": ("call(319, b'm', 0)", EPERM),
    "shmget": ("call(29, 0, 4096, 0o1600)", EPERM),
    "mq_open": ("call(240, b'q', 0o102, 0o600, 0)", EPERM),
    "open_by_handle_at": ("call(304, -100, 0, 0)", EPERM),
    "openat2": ("call(437, -100, b'old', 0, 0)", ENOSYS),
    "a_call_of_the_future": ("call(470)", ENOSYS),
    "chmod": ("call(90, b'old', 0o777)", EPERM),
    "fchmod": ("call(91, before.fileno(), 0o777)", EPERM),
    "chown": ("call(92, b'old', 0, 0)", EPERM),
    "utimensat": ("call(280, -100, b'old', 0, 0)", EPERM),
    "setxattr": ("call(188, b'old', b'user.a', b'b', 1, 0)", EPERM),
    "truncate": ("call(76, b'old', 0)", EPERM),
    "mknod": ("call(133, b'fifo', 0o010600, 0)", EPERM),
    "truncating_without_writing": ("opened('old', os.O_RDONLY | os.O_TRUNC)", EACCES),
    "reading_accounts": ("opened('/etc/passwd', os.O_RDONLY)", EACCES),
    "reading_variables": ("opened('/proc/self/environ', os.O_RDONLY)", EACCES),
    "reading_memory": ("opened('/proc/self/mem', os.O_RDONLY)", EACCES),
    "reading_the_repository": (f"opened({__file__!r}, os.O_RDONLY)", EACCES),
    "writing_elsewhere": ("opened('/tmp/finetune-evil', os.O_WRONLY | os.O_CREAT)", EACCES),
    "writing_to_shared_memory": ("opened('/dev/shm/finetune-evil', os.O_WRONLY | os.O_CREAT)", EACCES),
    "writing_to_the_scratch_folder": ("opened('new', os.O_WRONLY | os.O_CREAT)", 0),
    "writing_to_the_null_device": ("opened('/dev/null', os.O_WRONLY)", 0),
    "reading_the_library": ("opened(json.__path__[0] + '/__init__.py', os.O_RDONLY)", 0),
}
"""By name, a call on x86_64 and its error; 0 where it succeeds."""

READ_ONLY = {
    "writing_to_the_scratch_folder": ("opened('new', os.O_WRONLY | os.O_CREAT)", EROFS),
    "creating_without_writing": ("opened('new', os.O_RDONLY | os.O_CREAT)", EROFS),
    "truncating_without_writing": ("opened('old', os.O_RDONLY | os.O_TRUNC)", EROFS),
    "reading": ("opened('old', os.O_RDONLY)", 0),
    "unlink": ("call(87, b'old')", EROFS),
    "unlinkat": ("call(263, -100, b'old', 0)", EROFS),
    "rename": ("call(82, b'old', b'new')", EROFS),
    "mkdir": ("call(83, b'folder', 0o700)", EROFS),
    "link": ("call(86, b'old', b'new')", EROFS),
    "symlink": ("call(88, b'old', b'new')", EROFS),
    "creat": ("call(85, b'new', 0o600)", EROFS),
    "chmod": ("call(90, b'old', 0o777)", EPERM),
}
"""Without Landlock."""


def probed(calls: dict[str, tuple[str, int]], *, with_landlock: bool) -> tuple[str, dict[str, int]]:
    lines = "\n".join(f"found[{name!r}] = {expression}" for name, (expression, _) in calls.items())
    script = PROBE.format(sources=str(_SOURCES), landlock=with_landlock, calls=lines)
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
        done = subprocess.run(
            [*_PYTHON, "-c", script], cwd=folder, stdout=subprocess.PIPE, env={"TMPDIR": folder}, check=True
        )
    words, found = json.loads(done.stdout)
    return words, found


@pytest.mark.skipif(not X86_64, reason="the numbers of the calls are those of x86_64")
class TestWalls:
    @pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
    def test_refuse_what_reaches_others(self) -> None:
        words, found = probed(CALLS, with_landlock=True)
        assert f"Landlock {landlock.version()}" in words
        assert found == {name: error for name, (_, error) in CALLS.items()}

    def test_refuse_to_write_without_landlock(self) -> None:
        words, found = probed(READ_ONLY, with_landlock=False)
        assert "no Landlock (programs cannot write files)" in words
        assert found == {name: error for name, (_, error) in READ_ONLY.items()}


class Machine:
    """Interprets a filter as the kernel does; see kernel/seccomp.c and Documentation/networking/filter.rst."""

    def __init__(self, program: list[seccomp.Instruction], architecture: int) -> None:
        self._program, self._architecture = program, architecture

    def run(self, number: int, *arguments: int) -> int:
        loaded = {0: number, 4: self._architecture} | {16 + 8 * i: value for i, value in enumerate(arguments)}
        register = position = 0
        while True:
            code, if_true, if_false, constant = self._program[position]
            assert max(if_true, if_false) < 256
            position += 1
            jumps = {0x15: register == constant, 0x25: register > constant, 0x45: bool(register & constant)}
            if code == 0x20:
                register = loaded.get(constant, 0) & 0xFFFFFFFF
            elif code == 0x54:
                register &= constant
            elif code == 0x06:
                return constant
            else:
                position += if_true if jumps[code] else if_false


ALLOWED, KILLED = 0x7FFF0000, 0x80000000


@pytest.mark.parametrize(("column", "architecture"), [(0, 0xC000003E), (1, 0xC00000B7)])
class TestFilter:
    def test_decides_about_every_call_of_its_tables(self, column: int, architecture: int) -> None:
        machine = Machine(seccomp.filter_program(column, architecture, 77, writes=True), architecture)
        for number in numbers(HARMLESS, column) + numbers(WRITING, column):
            assert machine.run(number, 1, 2, 3) == ALLOWED
        for number in numbers(UNKNOWN, column):
            assert machine.run(number) == 0x50000 | ENOSYS
        assert machine.run(9999) == 0x50000 | ENOSYS
        called = {number for table in (HARMLESS, WRITING, CHECKED, UNKNOWN) for number in numbers(table, column)}
        assert {machine.run(number) for number in set(range(450)) - called} == {0x50000 | EPERM}

    def test_decides_by_arguments(self, column: int, architecture: int) -> None:
        machine = Machine(seccomp.filter_program(column, architecture, 77, writes=True), architecture)

        def run(name: str, *arguments: int) -> int:
            number = CHECKED[name][column]
            assert number is not None
            return machine.run(number, *arguments)

        assert [run("kill", 77, 9), run("kill", 1, 9), run("tgkill", 77, 78, 6)] == [ALLOWED, 0x50001, ALLOWED]
        thread = 0x3D0F00  # The flags of pthread_create.
        assert [run("clone", thread), run("clone", 17)] == [ALLOWED, 0x50000 | EAGAIN]
        assert run("clone", thread | 0x10000000) == 0x50000 | EAGAIN
        assert [run("openat", 0, 0, os.O_RDWR | os.O_CREAT), run("openat", 0, 0, os.O_TRUNC)] == [ALLOWED, 0x50000 | 13]
        assert [run("socketpair", 1, 0o2000001), run("socketpair", 1, 2), run("socketpair", 2, 1)] == [
            ALLOWED,
            0x50001,
            0x50001,
        ]

    def test_kills_another_architecture(self, column: int, architecture: int) -> None:
        program = seccomp.filter_program(column, architecture, 77, writes=True)
        assert Machine(program, 0x40000003).run(1) == KILLED
        assert Machine(program, architecture).run(0x40000000 | 1) == KILLED


def numbers(table: dict[str, Any], column: int) -> list[int]:
    return [found[column] for found in table.values() if found[column] is not None]


def test_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", "6", "1", "riscv64")))
    with pytest.raises(seccomp.NoSeccomp, match="no filter of system calls for riscv64"):
        seccomp.install(writes=True)


def test_the_process_imports_nothing_but_the_standard_library() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import finetune_trainer.sandbox.child.main as m; m._prepare"
    code += "; from finetune_trainer.sandbox.child import guard, isolation"
    subprocess.run([sys.executable, "-I", "-S", "-c", code, str(Path(_SOURCES))], check=True)
