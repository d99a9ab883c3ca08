"""Runs one program and its tests, in a process that isolates itself first.

The runner sends the program, and the tests only when the program's own code has run. With the tests comes a key; when
the last test has run, the key goes back, a nonce comes, and the nonce goes back. So success cannot be claimed with
anything that the process has known before. While foreign code runs, no frame, closure or module leads to the channel:
it is a local variable of a suspended generator, to which only an iterator in C refers.
"""

from __future__ import annotations

import builtins
import gc
import json
import os
import sys
import types
from collections import deque
from collections.abc import Iterator
from itertools import repeat

PROGRAM, TESTS = "<program>", "<tests>"
KEY_LENGTH = 32

_MESSAGE_LENGTH = 500
_OUT_OF_MEMORY = b'{"type": "MemoryError"}'


def main() -> None:
    """Arguments: the numbers of two open descriptors, a socket and the end of a pipe for a failure."""
    failures, namespace = int(sys.argv[2]), vars(_program())
    try:
        deque(map(exec, _sources(int(sys.argv[1]), _prepare()), repeat(namespace)), maxlen=0)
    except MemoryError:
        os.write(failures, _OUT_OF_MEMORY)
    except BaseException as error:
        os.write(failures, _described(error))
    finally:
        os._exit(1)


def _prepare() -> str:
    """Isolate this process; returns how. The modules that do it are forgotten."""
    from finetune_trainer.sandbox.child.guard import guard
    from finetune_trainer.sandbox.child.isolation import isolate

    protection = isolate()
    guard()
    return protection


def _program() -> types.ModuleType:
    """The module in which program and tests run."""
    module = types.ModuleType("program")
    sys.modules["program"] = module
    return module


def _sources(channel: int, protection: str) -> Iterator[types.CodeType]:
    """The code of the program, then that of the tests; resumed after the last test, it proves that.

    What it calls is in local variables, because a program can change modules.
    """
    read, write, leave, compiled, restore = os.read, os.write, os._exit, compile, vars(builtins).update
    originals = dict(vars(builtins))

    def receive(count: int) -> bytes:
        received = b""
        while len(received) < count:
            part = read(channel, count - len(received))
            if not part:
                leave(1)
            received += part
        return received

    def receive_source() -> str:
        return receive(int.from_bytes(receive(4), "big")).decode("utf-8", "surrogatepass")

    # The modules that have isolated this process are garbage only now.
    gc.collect()
    write(channel, protection.encode() + b"\n")
    yield compiled(receive_source(), PROGRAM, "exec", 0, True)
    restore(originals)
    write(channel, b"\n")
    key = receive(KEY_LENGTH)
    yield compiled(receive_source(), TESTS, "exec", 0, True)
    restore(originals)
    write(channel, key)
    write(channel, receive(KEY_LENGTH))
    leave(0)


def _described(error: BaseException) -> bytes:
    """``error`` as JSON: its type and message, and the last lines of the tests and of the program on its way."""
    lines: dict[str, int | None] = {}
    if isinstance(error, SyntaxError) and error.filename in (PROGRAM, TESTS):
        lines[error.filename] = error.lineno
    trace = error.__traceback__
    while trace:
        if (name := trace.tb_frame.f_code.co_filename) in (PROGRAM, TESTS):
            lines[name] = trace.tb_lineno
        trace = trace.tb_next
    try:
        message = (error.msg if isinstance(error, SyntaxError) else str(error))[:_MESSAGE_LENGTH]
    except Exception:
        message = ""
    return json.dumps(
        {
            "type": type(error).__name__[:_MESSAGE_LENGTH],
            "errno": error.errno if isinstance(error, OSError) else None,
            "exit": isinstance(error, SystemExit),
            "message": message,
            "program": lines.get(PROGRAM),
            "tests": lines.get(TESTS),
        }
    ).encode()
