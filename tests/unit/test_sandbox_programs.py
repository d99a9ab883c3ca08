"""Generated programs in real processes: right ones pass, and hostile ones fail and harm nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_api.stage import CodeExecution, Device, Stage, StageConfig, World
from finetune_trainer.sandbox import limits, open_sandbox, scratch
from finetune_trainer.sandbox.child import landlock
from finetune_trainer.sandbox.client import RemoteSandbox
from finetune_trainer.sandbox.failures import end_of_process, failure
from finetune_trainer.sandbox.local import LocalSandbox
from finetune_trainer.sandbox.programs import Ending, Outcome, Program
from tests.builders import RUNS_CODE, a_job, an_identity
from tests.unit.hostile_programs import PROGRAMS, SLOW, TESTS, until

RIGHT = (
    (
        "the standard library",
        "import asyncio, csv, dataclasses, decimal, re, sqlite3, ssl, typing, unittest.mock, zoneinfo\n",
    ),
    ("a thread", "import threading\nthread = threading.Thread(target=print)\nthread.start()\nthread.join()\n"),
    ("an event loop", "import asyncio\nassert asyncio.run(asyncio.sleep(0.01, 3)) == 3\n"),
    ("a temporary file", "import tempfile\nwith tempfile.NamedTemporaryFile('w+') as file:\n    file.write('x')\n"),
    (
        "a temporary folder",
        "import tempfile\nwith tempfile.TemporaryDirectory() as folder:\n    open(f'{folder}/a', 'w').close()\n",
    ),
    ("an alarm", "import signal\nsignal.signal(signal.SIGALRM, lambda *_: None)\nsignal.alarm(1)\n"),
    (
        "a dataclass",
        "import dataclasses, pickle\n@dataclasses.dataclass\nclass A:\n    x: int\npickle.loads(pickle.dumps(A(1)))\n",
    ),
    ("doctest", "import doctest, sys\nassert doctest.testmod(sys.modules[__name__]).failed == 0\n"),
    ("codecs", "'ü'.encode('utf-16'), 'ü'.encode('cp1252'), 'ü'.encode('idna')\n"),
    ("a comment on the encoding", "# -*- coding: latin-1 -*-\nassert len('ü') == 1\n"),
    ("the order of a set", "assert hash('a') == hash('a') and __import__('sys').flags.hash_randomization == 0\n"),
    ("no variables", "import os\nassert set(os.environ) <= {'HOME', 'LANG', 'LC_CTYPE', 'PYTHONHASHSEED', 'TMPDIR'}\n"),
    ("a main part that does not run", "if __name__ == '__main__':\n    raise SystemExit\n"),
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    with LocalSandbox() as found:
        yield found


def run(sandbox: LocalSandbox, code: str, tests: str = TESTS) -> Outcome:
    return sandbox.submit(Program(code, tests)).result()


@pytest.mark.parametrize("code", [pytest.param(code, id=name) for name, code in RIGHT])
def test_a_right_program_passes(sandbox: LocalSandbox, code: str) -> None:
    assert run(sandbox, code + "def f(n):\n    return 2 * n\n") == Outcome(Ending.PASSED)


@pytest.mark.parametrize(("code", "endings"), [pytest.param(*program, id=name) for name, *program in PROGRAMS])
def test_a_hostile_program_does_not_pass(sandbox: LocalSandbox, code: str, endings: tuple[Ending, ...]) -> None:
    outcome = run(sandbox, code)
    assert outcome.ending in endings, outcome
    assert len(outcome.detail) <= limits.DETAIL
    assert outcome.detail.isprintable()
    assert run(sandbox, "def f(n):\n    return 2 * n\n").passed, "the next program runs as if nothing had happened"


def test_slow_programs_end_at_the_limit(sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WALL_SECONDS", 1)
    signs: list[int] = []
    outcomes = sandbox.run([Program(code, TESTS) for _, code in SLOW], signs.append)
    assert {name: str(outcome.ending) for (name, _), outcome in zip(SLOW, outcomes, strict=True)} == {
        name: "Time" for name, _ in SLOW
    }
    assert sum(signs) == len(SLOW)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    writes = (
        "import os\nos.mkdir('a', 0)\nos.umask(0o777)\nos.symlink('/etc', 'b')\nopen('c', 'w').close()\nos.mkdir('d')\n"
    )
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        with LocalSandbox(Path(parent)) as sandbox:
            outcomes = sandbox.run([Program(writes, "pass"), Program("x = 1", "assert x == 2")], lambda _: None)
            assert [outcome.ending for outcome in outcomes] == [Ending.PASSED, Ending.FAILED]
            (root,) = os.listdir(parent)
            assert os.listdir(os.path.join(parent, root)) == []
        assert os.listdir(parent) == []


def test_temporary_files_work_where_nobody_cannot_reach_the_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    code = "import tempfile\nwith tempfile.TemporaryDirectory() as folder:\n    open(f'{folder}/a', 'w').close()\n"
    with LocalSandbox(tmp_path) as sandbox:
        assert run(sandbox, code, "pass\n") == Outcome(Ending.PASSED)
    assert os.listdir(tmp_path) == []


def test_an_abrupt_end_leaves_no_process_and_no_file() -> None:
    code = "open('left', 'w').close()\nimport os, time\nprint(os.getpid())\ntime.sleep(60)\n"
    runner = (
        "import sys\nfrom pathlib import Path\nfrom finetune_trainer.sandbox.local import LocalSandbox\n"
        "from finetune_trainer.sandbox.programs import Program\n"
        "with LocalSandbox(Path(sys.argv[1])) as sandbox:\n"
        f"    sandbox.run([Program({code!r}, 'pass')], lambda _: None)\n"
    )
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        process = subprocess.Popen([sys.executable, "-c", runner, parent])
        try:
            until(lambda: list(Path(parent).glob("*/*/left")))
            (pid,) = [child for child in children_of(process.pid) if "child.main" in command_of(child)]
        finally:
            process.kill()
            process.wait()
        until(lambda: os.listdir(parent) == [] and not Path(f"/proc/{pid}/exe").exists())


def children_of(pid: int) -> list[int]:
    """The processes that any thread of ``pid`` has started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


class TestFailures:
    def test_name_the_line_of_the_tests(self, sandbox: LocalSandbox) -> None:
        outcome = run(sandbox, "def f(n):\n    return n\n", "assert f(0) == 0\nassert f(3) == 6\n")
        assert outcome.detail == "AssertionError in line 2 of the tests (assert f(3) == 6)"

    def test_name_the_line_of_the_program_that_they_called(self, sandbox: LocalSandbox) -> None:
        outcome = run(sandbox, "def f(n):\n    retur\n")
        assert outcome.detail == (
            "NameError in line 2 of the program (retur), called from line 1 of the tests (assert f(3) == 6): "
            "name 'retur' is not defined"
        )

    def test_name_what_does_not_parse(self, sandbox: LocalSandbox) -> None:
        assert run(sandbox, "def f(n):\n").detail == (
            "IndentationError in line 1 of the program (def f(n):): expected an indented block after function "
            "definition on line 1"
        )
        assert run(sandbox, "x = 1\n", "assert x = 1\n").detail.startswith("SyntaxError in line 1 of the tests")

    @pytest.mark.parametrize(
        "reported",
        [b"", b"{", b"[]", b'{"type": 3}', b'{"type": null, "tests": "x"}', b"[" * 100_000, b'{"type": "\xff"}'],
    )
    def test_of_a_process_that_talks_nonsense_are_no_success(self, reported: bytes) -> None:
        assert failure(reported, Program("", "")).ending is Ending.EXITED

    @pytest.mark.parametrize(
        ("kind", "message", "detail"),
        [
            ("MemoryError", "", "MemoryError: a program has 1 GiB"),
            ("ModuleNotFoundError", "No module named 'x'", "No module named 'x'; programs have only Python's standard"),
        ],
    )
    def test_limits_are_named(self, kind: str, message: str, detail: str) -> None:
        reported = json.dumps({"type": kind, "message": message})
        assert detail in failure(reported.encode(), Program("", "")).detail

    def test_have_no_control_characters(self) -> None:
        reported = json.dumps({"type": "E", "message": "a\x1b[2Jb\n\u202ec", "tests": 1, "program": -5})
        outcome = failure(reported.encode(), Program("", "x\x1b[1m"))
        assert outcome.detail == "E in line 1 of the tests (x): ab c"

    def test_count_lines_as_python_does(self) -> None:
        reported = json.dumps({"type": "E", "tests": 3})
        outcome = failure(reported.encode(), Program("", "a = '\u2028\x0c'\r\nb = 1\rc\nd\n"))
        assert outcome.detail == "E in line 3 of the tests (c)"

    def test_by_signals(self) -> None:
        assert end_of_process(-signal.SIGXCPU, 8.0).ending is Ending.TIME
        assert end_of_process(-signal.SIGKILL, 8.0).ending is Ending.TIME
        assert end_of_process(-signal.SIGKILL, 0.1).ending is Ending.MEMORY
        assert end_of_process(-signal.SIGSEGV, 0.1).ending is Ending.EXITED
        assert end_of_process(0, 0.1).ending is Ending.EXITED


class TestScratch:
    def test_deep_folders_are_removed(self, tmp_path: Path) -> None:
        top = tmp_path / "top"
        top.mkdir()
        before = os.getcwd()
        try:
            os.chdir(top)
            for _ in range(1500):
                os.mkdir("folder")
                Path("file").touch()
                os.chdir("folder")
        finally:
            os.chdir(before)
        assert scratch.exceeded(top) == "1,000 files"
        scratch.remove(top)
        assert not top.exists()

    def test_links_are_not_followed(self, tmp_path: Path) -> None:
        kept, top = tmp_path / "kept", tmp_path / "top"
        (kept / "inner").mkdir(parents=True)
        top.mkdir()
        (top / "link").symlink_to(kept)
        (top / "loop").symlink_to(top)
        assert scratch.exceeded(top) == ""
        scratch.remove(top)
        assert (kept / "inner").exists()


def a_config(allowed: bool, code_execution: CodeExecution | None) -> StageConfig:
    return StageConfig(
        job=an_identity(),
        stage=Stage.EVALUATE,
        attempt=1,
        spec=a_job(**(RUNS_CODE if allowed else {})).spec,
        world=World(workers=1, processes_per_worker=1, device=Device.CPU),
        code_execution=code_execution,
    )


class TestOpenSandbox:
    def test_is_what_the_plan_says(self) -> None:
        assert isinstance(open_sandbox(a_config(True, CodeExecution())), LocalSandbox)
        assert isinstance(open_sandbox(a_config(True, CodeExecution(socket="/run/s"))), RemoteSandbox)

    @pytest.mark.parametrize(("allowed", "where"), [(False, CodeExecution()), (True, None)])
    def test_is_refused_where_it_is_not_allowed(self, allowed: bool, where: CodeExecution | None) -> None:
        with pytest.raises(StageFailure, match="must not run generated programs") as failure:
            open_sandbox(a_config(allowed, where))
        assert failure.value.reason is Reason.BAD_CONFIGURATION

    def test_says_what_isolates_the_programs(self, sandbox: LocalSandbox) -> None:
        assert sandbox.details["isolation"].startswith("seccomp, ")
        assert (f"Landlock {landlock.version()}" in sandbox.details["isolation"]) is (landlock.version() > 0)

    def test_refuses_a_machine_that_cannot_isolate(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        broken = "import os; os.uname = lambda: os.uname_result(('Linux', '', '', '', 'riscv64')); "
        from finetune_trainer.sandbox import process

        monkeypatch.setattr(process, "_CODE", broken + process._CODE)
        with pytest.raises(StageFailure, match="no filter of system calls for riscv64") as failure, LocalSandbox():
            pass
        assert failure.value.reason is Reason.BAD_CONFIGURATION
        assert "allowCodeExecution" in failure.value.message
