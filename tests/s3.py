"""A real S3 server on loopback for tests: versitygw with a directory as storage."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_port
from tests.tools import go_tool

ACCESS_KEY = "test-access"
SECRET_KEY = "test-secret-never-shown"
_DEADLINE_SECONDS = 60


@dataclass
class S3Server:
    """A running server. Its buckets are the directories of ``root``."""

    endpoint: str
    root: Path
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a client."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }

    def make_bucket(self, name: str) -> str:
        """Create a bucket and return its address."""
        (self.root / name).mkdir()
        return f"s3://{name}"

    def stop(self) -> None:
        """Stop the server and wait until it has ended."""
        self.process.terminate()
        try:
            self.process.wait(_DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run an S3 server with its data in ``folder`` until the end of the block."""
    root, sidecar = folder / "buckets", folder / "metadata"
    root.mkdir(parents=True)
    sidecar.mkdir()
    port = free_port()
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [go_tool("versitygw"), "--port", f"127.0.0.1:{port}", "--quiet", "posix", "--sidecar", sidecar, root],
            env=os.environ | {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = S3Server(f"http://127.0.0.1:{port}", root, process)
    try:
        _wait_until_it_answers(process, port, log)
        yield server
    finally:
        server.stop()


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"versitygw did not start: {log.read_text()}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
