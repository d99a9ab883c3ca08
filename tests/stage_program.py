"""A fake stage that fulfils the contract without doing work. Tests of executors run it instead of the trainer.

The environment variable FAKE_STAGES controls it with JSON: ``{"train": ["crash", "done"]}`` makes the first attempt
crash and the second succeed. The last word applies to all further attempts. A stage without an entry succeeds at once.
FAKE_INPUTS is the digest that ``inputs`` prints.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from finetune_api.failures import Reason
from finetune_api.stage import Progress, StageConfig, StageError, StageReport
from tests.builders import DIGEST, a_checkpoint, a_report, an_evaluation


class Stage:
    """One attempt of a stage."""

    def __init__(self, config: StageConfig) -> None:
        self.config = config
        self.progress = self._progress(time.time(), done=0)
        self.stopped = threading.Event()

    def _progress(self, updated_at: float, done: int) -> Progress:
        return Progress(
            stage=self.config.stage,
            attempt=self.config.attempt,
            activity="working",
            updated_at=updated_at,
            done=done,
            total=1000,
            loss=1.0,
            tokens_per_second=100.0,
            checkpoint=a_checkpoint(done) if done else None,
        )

    def serve(self) -> None:
        stage = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = stage.progress.model_dump_json().encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer((self.config.listen, self.config.port), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def finish(self, error: StageError | None = None) -> int:
        measured = an_evaluation().model_copy(update={"harness_digest": os.environ.get("FAKE_HARNESS")})
        report = a_report(self.config.stage, self.config.attempt, measured)
        if error:
            report = StageReport(stage=self.config.stage, attempt=self.config.attempt, seconds=1.0, error=error)
        Path(self.config.termination_message_path).write_bytes(report.to_termination_message())
        return report.exit_code

    def fail(self, reason: Reason) -> int:
        return self.finish(StageError(reason=reason, message=f"met {reason}.", exit_code=reason.exit_code))

    def work(self) -> int:
        """Make progress until SIGTERM arrives."""
        for step in range(1, 1_000_000):
            self.progress = self._progress(time.time(), done=min(step, 1000))
            if self.stopped.wait(0.02):
                break
        return self.fail(Reason.STOPPED)

    def do(self, word: str) -> int:
        match word:
            case "done":
                return self.finish()
            case "work":
                return self.work()
            case "hang":
                self.hang()
            case "deaf":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                self.work_for_ever()
            case "leave-a-child":
                code = "import time; time.sleep(1000)"
                child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
                Path(os.environ["FAKE_CHILD"]).write_text(str(child.pid))
                return self.work()
            case "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            case "break":
                sys.exit("ModuleNotFoundError: No module named 'torch'")
            case "silent":
                return 0
            case _:
                return self.fail(Reason(word))
        return 70

    def hang(self) -> None:
        """Serve progress that never changes."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.progress = self._progress(0.0, done=1)
        while True:
            time.sleep(1)

    def work_for_ever(self) -> None:
        while True:
            self.progress = self._progress(time.time(), done=5)
            time.sleep(0.02)


def print_inputs() -> int:
    """Print the digests in FAKE_INPUTS, by default that of a successful prepare stage, and in FAKE_HARNESS."""
    digest = os.environ.get("FAKE_INPUTS", DIGEST)
    if not digest:
        print("The bucket does not answer.", file=sys.stderr)  # noqa: T201
        return 69
    print(json.dumps({"inputsDigest": digest, "harnessDigest": os.environ.get("FAKE_HARNESS")}))  # noqa: T201
    return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("stage")
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    config = StageConfig.model_validate_json(arguments.config.read_bytes())
    if arguments.stage == "inputs":
        return print_inputs()
    stage = Stage(config)
    signal.signal(signal.SIGTERM, lambda *_: stage.stopped.set())
    stage.serve()
    chosen = json.loads(os.environ.get("FAKE_STAGES", "{}"))
    words = chosen.get(f"{config.stage}_r{config.job.revision}") or chosen.get(config.stage, ["done"])
    print(f"{config.stage} attempt {config.attempt}", flush=True)  # noqa: T201
    return stage.do(words[min(config.attempt, len(words)) - 1])


if __name__ == "__main__":
    sys.exit(main())
