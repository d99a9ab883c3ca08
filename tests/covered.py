"""The coverage of the last `make test`: ``python -m tests.covered`` prints the coverage of each package.

``python -m tests.covered operator/finetune_api/stage.py:40`` prints tests that ran a line: the first of each
process. For whole files with the tests of each line, run ``coverage html --show-contexts``.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from glob import glob
from pathlib import Path

from coverage import Coverage

_MANY = 90.0
"""Files with a lower coverage in percent are listed."""


def summary() -> Iterator[str]:
    """Combine the data of all processes; yield a line for each package, and for each file with low coverage."""
    measured = Coverage()
    if glob(f"{measured.get_option('run:data_file')}.*"):
        measured.combine()
        measured.save()
    measured.load()
    with tempfile.TemporaryDirectory() as folder:
        outfile = str(Path(folder, "coverage.json"))
        measured.json_report(outfile=outfile)
        report = json.loads(Path(outfile).read_text())
    counts = {
        path: (file["summary"]["covered_lines"], file["summary"]["num_statements"])
        for path, file in report["files"].items()
    }
    yield from table(counts)


def table(counts: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """The lines of the summary. ``counts`` has, for each file, the lines that ran and all its lines."""
    packages: dict[str, list[tuple[int, int]]] = {}
    for path, pair in counts.items():
        packages.setdefault("/".join(Path(path).parts[1:-1]), []).append(pair)
    packages["all together"] = list(counts.values())
    yield "coverage of the product's code, stages and operator included"
    for name, pairs in packages.items():
        ran, lines = (sum(column) for column in zip(*pairs, strict=True))
        yield f"  {name:36} {_percent(ran, lines):6.1f} %  {ran:6,} of {lines:,} lines"
    for path, (ran, lines) in counts.items():
        if _percent(ran, lines) < _MANY:
            yield f"  less than {_MANY:.0f} %: {path}, {lines - ran} of {lines} lines did not run"


def _percent(ran: int, lines: int) -> float:
    return 100.0 * ran / lines if lines else 100.0


def tests_of(path: str, line: int) -> list[str]:
    """The names of the tests that ran a line, the first of each process."""
    measured = Coverage()
    measured.load()
    contexts = measured.get_data().contexts_by_lineno(str(Path(path).resolve())).get(line, [])
    # Processes that a test starts append the phase, such as setup or call.
    return sorted({context.partition(" (")[0] for context in contexts if context})


def main(arguments: list[str]) -> Iterator[str]:
    if not arguments:
        yield from summary()
    for place in arguments:
        path, _, line = place.rpartition(":")
        yield from tests_of(path, int(line)) or [f"{place}: no test ran this line"]


if __name__ == "__main__":
    print(*main(sys.argv[1:]), sep="\n")  # noqa: T201
