"""A test that hangs is ended by pytest-timeout; its report has what still ran then, and the end of each log.

Where the interpreter itself is stuck, so that no signal handler runs, ``faulthandler`` ends the process a little later
(both times are in the Makefile); xdist names the test, and ``tests.supervised`` ends what it had started.
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
        report.sections.append(("processes that still ran", "\n".join(running) or "none"))
    return report
