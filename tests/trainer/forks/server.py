"""Forks stages from a process that has imported their libraries once: ``python -m tests.trainer.forks.server FD``.

With tiny models, a stage spends most of its time on imports of torch, transformers and deepspeed in every process.

The server exits when the client closes the socket, and the kernel then kills the hosts that it has forked. This works
even if the tests are killed.
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
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from finetune_trainer.importing import heavy_imports
from tests.trainer.forks.stage import MESSAGE_BYTES, become_host

_HARMLESS_THREADS = {"jemalloc_bg_thd"}
"""Thread of the allocator of pyarrow, which supports forks."""
_LIGHT = (
    "finetune_trainer.command",
    "finetune_trainer.stages.evaluate",
    "finetune_trainer.stages.prepare",
    "finetune_trainer.stages.publish",
    "finetune_trainer.stages.respond",
    "finetune_trainer.stages.train",
    "finetune_trainer.worker",
)
_HEAVY = (
    "finetune_trainer.exports.adapter",
    "finetune_trainer.methods.adapters",
    "finetune_trainer.tasks.text_classification.evaluation",
    "finetune_trainer.tasks.text_classification.training",
    "finetune_trainer.evaluate.comparison",
    "finetune_trainer.evaluate.answer_comparison",
    "finetune_trainer.modelling.loading",
    "finetune_trainer.report.page",
    "finetune_trainer.teaching.local",
    "finetune_trainer.train.gang",
    # Modules that libraries import lazily.
    "peft.utils.transformers_weight_conversion",
    "torch.distributed.algorithms.ddp_comm_hooks.default_hooks",
)
_NEVER = "torch._inductor.compile_fx"


class Server:
    """Forks a host process for each request, and reports its exit code.

    A request is a JSON object (see `become_host`) with two descriptors: one for the output of the host, and a pipe to
    which the server writes two lines: the process id, and later the exit code, negative for a signal.
    """

    def __init__(self, requests: socket.socket, imported_under: Mapping[str, str]) -> None:
        self._requests = requests
        self._imported_under = imported_under
        self._exit_pipes: dict[int, int] = {}
        """The pipe for the exit code of each host, by process id."""
        self._wake, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # The tests handle Ctrl-C.

    def serve(self) -> None:
        """Serve until the client closes the socket."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._requests, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._wake in ready:
                    os.read(self._wake, 4096)
                    self._report_exits()
                if self._requests in ready:
                    message, descriptors, _, _ = socket.recv_fds(self._requests, MESSAGE_BYTES, 2)
                    if not message:
                        return
                    self._fork(json.loads(message), *descriptors)

    def _fork(self, message: dict[str, Any], output: int, exit_pipe: int) -> None:
        assert_one_thread()
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_host(message, output, server)
        os.close(output)
        self._exit_pipes[pid] = exit_pipe
        os.write(exit_pipe, f"{pid}\n".encode())

    def _become_host(self, message: dict[str, Any], output: int, server: int) -> NoReturn:
        """Become a host in the child process; never return to the server loop."""
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

    def _report_exits(self) -> None:
        for pid, exit_pipe in list(self._exit_pipes.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._exit_pipes[pid]
                with contextlib.suppress(BrokenPipeError):  # The client no longer waits for it.
                    os.write(exit_pipe, f"{os.waitstatus_to_exitcode(status)}\n".encode())
                os.close(exit_pipe)


def assert_one_thread() -> None:
    """Check that there is only one thread, because locks held by other threads would stay locked in a child."""
    threads = sorted(task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir())
    assert len([name for name in threads if name not in _HARMLESS_THREADS]) == 1, f"cannot fork beside {threads}"


def import_libraries() -> None:
    """Import the libraries of the stages as the stages do."""
    for name in _LIGHT:
        importlib.import_module(name)
    with heavy_imports():
        for name in _HEAVY:
            importlib.import_module(name)
        from finetune_trainer.patches.deepspeed import import_without_compiler

        import_without_compiler()
    assert _NEVER not in sys.modules, f"a rank would have imported {_NEVER}"
    assert not logging.getLogger().handlers, "an existing log handler would change the log format of the stages"


if __name__ == "__main__":
    environment = dict(os.environ)  # Libraries change it.
    import_libraries()
    Server(socket.socket(fileno=int(sys.argv[1])), environment).serve()
