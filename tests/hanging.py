"""A pytest plugin: the report of a test that times out lists its running processes, with the end of each log.

pytest-timeout ends a test that hangs. If the interpreter itself is blocked, so that no signal handler runs,
``faulthandler`` ends the process a little later. xdist then names the test, and ``tests.supervised`` ends the processes
that it had started. Both timeouts are in the Makefile.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from tests.supervised import descendants, describe, living


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.excinfo is not None and "from pytest-timeout" in str(call.excinfo.value):
        running = [describe(pid) for pid in living(descendants(os.getpid()))]
        report.sections.append(("processes that were still running", "\n".join(running) or "none"))
    return report
