"""Forks stages from a process that has imported their libraries once: ``python -m tests.trainer.forks.server FD``.

Most of what a stage of a tiny model costs is the import of torch, transformers and deepspeed, anew in every process.

The server ends when the other side of its socket is closed, with the hosts that it has forked: the kernel sees to it,
however the tests end.
"""

from __future__ import annotations

import contextlib
import importlib
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
_LIGHT = (
    "coverage",
    "finetune_trainer.command",
    "finetune_trainer.stages.evaluate",
    "finetune_trainer.stages.prepare",
    "finetune_trainer.stages.publish",
    "finetune_trainer.stages.train",
    "finetune_trainer.worker",
)
_HEAVY = (
    "finetune_trainer.exports.adapter",
    "finetune_trainer.methods.adapters",
    "finetune_trainer.tasks.text_classification.evaluation",
    "finetune_trainer.tasks.text_classification.training",
    "finetune_trainer.evaluate.comparison",
    "finetune_trainer.evaluate.generation",
    "finetune_trainer.modelling.loading",
    "finetune_trainer.report.page",
    "finetune_trainer.train.gang",
    # What libraries import when they are used first.
    "peft.utils.transformers_weight_conversion",
    "torch.distributed.algorithms.ddp_comm_hooks.default_hooks",
)
_NEVER = "torch._inductor.compile_fx"


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
                with contextlib.suppress(BrokenPipeError):  # Nobody waits for it any more.
                    os.write(told, f"{os.waitstatus_to_exitcode(status)}\n".encode())
                os.close(told)


def assert_one_thread() -> None:
    """A child has but the thread that forked it: what another had locked would stay locked there for ever."""
    threads = sorted(task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir())
    assert len([name for name in threads if name not in _HARMLESS_THREADS]) == 1, f"cannot fork beside {threads}"


def import_libraries() -> None:
    """Import what the stages import, in the way that they do."""
    for name in _LIGHT:
        importlib.import_module(name)
    with heavy_imports():
        for name in _HEAVY:
            importlib.import_module(name)
        from finetune_trainer.patches.deepspeed import import_without_compiler

        import_without_compiler()
    assert _NEVER not in sys.modules, f"a rank would have imported {_NEVER}"
    assert not logging.getLogger().handlers, "what the product says in its logs would look different"


if __name__ == "__main__":
    import_libraries()
    Server(socket.socket(fileno=int(sys.argv[1]))).serve()
