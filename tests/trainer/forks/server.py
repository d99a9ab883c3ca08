"""Forks stages from a process that has imported their libraries once: ``python -m tests.trainer.forks.server FD``.

Most of what a stage of a tiny model costs is the import of torch, transformers and deepspeed, anew in every process.

The server ends when the other side of its socket is closed, with the hosts that it has forked: the kernel sees to it,
however the tests end.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from finetune_trainer.importing import heavy_imports
from tests.trainer.forks.stage import MESSAGE_BYTES, become_host

_HARMLESS_THREADS = {"jemalloc_bg_thd"}
"""Of pyarrow's allocator, which knows of forks."""
_NEVER_IMPORTED = "torch._inductor.compile_fx"


class Server:
    """Forks a host for each request and tells how it ended.

    A request is a JSON object, see `become_host`, with two descriptors: the host's output, and a pipe to which come its
    process id at once and its exit code, negative for a signal, at the end; each with a line feed.
    """

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._imported_under = dict(os.environ)
        self._told: dict[int, int] = {}
        """By the process id of a host, the pipe where its end is told."""
        self._wake, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # A Ctrl-C of the terminal is heard by the tests.

    def serve(self) -> None:
        """Serve until the other side of the socket is closed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._requests, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._wake in ready:
                    os.read(self._wake, 4096)
                    self._tell_ends()
                if self._requests in ready:
                    message, descriptors, _, _ = socket.recv_fds(self._requests, MESSAGE_BYTES, 2)
                    if not message:
                        return
                    self._fork(json.loads(message), *descriptors)

    def _fork(self, message: dict[str, Any], output: int, told: int) -> None:
        assert_one_thread()
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._leave(message, output, server)
        os.close(output)
        self._told[pid] = told
        os.write(told, f"{pid}\n".encode())

    def _leave(self, message: dict[str, Any], output: int, server: int) -> NoReturn:
        """In the child: whatever happens, it does not go on as a server."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            become_host(message, output, server, self._imported_under)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(1)

    def _tell_ends(self) -> None:
        for pid, told in list(self._told.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._told[pid]
                try:
                    os.write(told, f"{os.waitstatus_to_exitcode(status)}\n".encode())
                except BrokenPipeError:
                    pass  # Nobody waits for it any more.
                os.close(told)


def assert_one_thread() -> None:
    """A child has but the thread that forked it: what another had locked would stay locked there for ever."""
    threads = {task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}
    others = len(list(Path("/proc/self/task").iterdir())) - 1
    assert others <= len(threads & _HARMLESS_THREADS), f"cannot fork beside the threads {threads}"


def import_libraries() -> None:
    """Import what the stages import, in the way that they do."""
    import finetune_trainer.command
    import finetune_trainer.evaluate.stage
    import finetune_trainer.prepare.stage
    import finetune_trainer.publish.stage
    import finetune_trainer.train.stage
    import finetune_trainer.worker  # noqa: F401

    with heavy_imports():
        import finetune_trainer.evaluate.classify
        import finetune_trainer.evaluate.comparison
        import finetune_trainer.evaluate.gates
        import finetune_trainer.evaluate.generate
        import finetune_trainer.evaluate.loading
        import finetune_trainer.report.page
        import finetune_trainer.train.gang
        from finetune_trainer.train.lean_deepspeed import import_without_compiler

        import_without_compiler()
        # What the libraries import when they are used.
        import peft.utils.transformers_weight_conversion
        import torch.distributed.algorithms.ddp_comm_hooks.default_hooks  # noqa: F401
    assert _NEVER_IMPORTED not in sys.modules, f"a rank would have imported {_NEVER_IMPORTED}"
    assert not logging.getLogger().handlers, "what the product says in its logs would look different"


if __name__ == "__main__":
    import_libraries()
    Server(socket.socket(fileno=int(sys.argv[1]))).serve()
