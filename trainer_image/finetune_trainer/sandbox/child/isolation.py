"""Takes from this process what a program does not need. It cannot be undone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys

from finetune_trainer.sandbox import limits
from finetune_trainer.sandbox.child import landlock, seccomp

_NOBODY = 65534

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
"""Of prctl(2)."""

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/usr/share/zoneinfo")
_STANDARD_LIBRARY = os.path.dirname(os.__file__)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")


class CannotIsolate(Exception):
    """This machine cannot isolate programs; the message says why, as the end of a sentence."""


def isolate() -> str:
    """Isolate this process: rights, files, system calls, resources. Its folder becomes the only place to write.

    Returns:
        What protects this machine, in words.

    Raises:
        CannotIsolate: See its message.
    """
    parent = os.getppid()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        # When memory is short, the kernel ends this process before any other.
        score.write("1000")
    library = os.open(_STANDARD_LIBRARY, os.O_PATH | os.O_DIRECTORY)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    abi = landlock.version()
    if abi:
        shared = os.path.join(sys.base_exec_prefix, "lib")
        landlock.restrict([library, shared, *_LIBRARIES, "/dev/urandom"], [".", *_DEVICES])
    as_nobody = os.geteuid() == 0
    if as_nobody:
        _become_nobody()
        _reach_library(library)
        _reach_scratch()
    _limit()
    # A change of the user id clears both.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(_PR_SET_DUMPABLE, 0)
    if os.getppid() != parent:
        raise CannotIsolate("the runner has ended")
    try:
        seccomp.install(writes=abi > 0)
    except seccomp.NoSeccomp as error:
        raise CannotIsolate(str(error)) from error
    files = f"Landlock {abi}" if abi else "no Landlock (programs cannot write files)"
    return f"seccomp, {files}" + (", as nobody" if as_nobody else "")


def _become_nobody() -> None:
    try:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    except OSError as error:
        raise CannotIsolate(f"root cannot become nobody here: {error.strerror}") from error


def _reach_library(library: int) -> None:
    """Import the standard library through an open descriptor where nobody cannot reach it, as below /root."""
    path = _STANDARD_LIBRARY
    if os.access(os.path.join(path, "os.py"), os.R_OK):
        return
    opened = f"/proc/self/fd/{library}"
    if not os.access(f"{opened}/os.py", os.R_OK):
        raise CannotIsolate(f"the user nobody cannot read the standard library in {path}")
    # Packages that are imported already find their modules in __path__.
    packages = [module.__path__ for module in sys.modules.values() if hasattr(module, "__path__")]
    for entries in (sys.path, *packages):
        entries[:] = [opened + entry.removeprefix(path) if entry.startswith(path) else entry for entry in entries]
    sys.path_importer_cache.clear()


def _reach_scratch() -> None:
    """Name the scratch folder by an open descriptor where nobody cannot reach it by its path."""
    if not os.access(os.environ["TMPDIR"], os.W_OK):
        folder = os.open(".", os.O_PATH | os.O_DIRECTORY)
        os.environ["TMPDIR"] = os.environ["HOME"] = f"/proc/self/fd/{folder}"


def _limit() -> None:
    for kind, amount in (
        (resource.RLIMIT_CPU, limits.CPU_SECONDS),
        (resource.RLIMIT_AS, limits.MEMORY),
        (resource.RLIMIT_FSIZE, limits.FILE_SIZE),
        (resource.RLIMIT_NOFILE, limits.OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        lowest = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(kind, (lowest, lowest))


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise CannotIsolate(f"prctl: {os.strerror(ctypes.get_errno())}")
