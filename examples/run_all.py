"""Run all examples, one after the other, and write their results into the table of README.md.

python examples/run_all.py [NAME …]   with names, only those, and the table is printed
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import make_inputs
from finetune_api.tables.metrics import Metric

SERVED = {"distillation-responses": ("models/teacher", "8742")}
"""Examples with a teacher behind an endpoint: its model, and the port in their manifest."""
FOLDER = Path(__file__).resolve().parent
README = FOLDER.parent / "README.md"
BEGIN, END = "<!-- Written by `make examples`. -->", "<!-- The end of what `make examples` writes. -->"
HEADER = ("example", "task", "model", "method", "metric", "baseline", "tuned", "95 % interval of the change", "seconds")


@dataclass(frozen=True)
class Result:
    """The end of an example's run."""

    name: str
    job: Mapping[str, Any]
    metric: Mapping[str, Any]
    seconds: float
    """From the start of ``finetune run`` to its end."""

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        spec, name = self.job["spec"], self.metric["name"]
        digits = Metric(name).row.digits
        low, high = self.metric["interval"]
        return (
            f"[{self.name}](examples/{self.name}.yaml)",
            spec["task"]["type"],
            spec["model"]["uri"].rsplit("/", 1)[1],
            spec["method"]["type"],
            name,
            f"{self.metric['baseline']:.{digits}f}" if "baseline" in self.metric else "–",
            f"{self.metric['tuned']:.{digits}f}",
            f"{low:+.{digits}f} … {high:+.{digits}f}",
            f"{self.seconds:.0f}",
        )


def names() -> list[str]:
    """The names of the manifests, which are also those of their inputs; the quickstart first."""
    return sorted((path.stem for path in FOLDER.glob("*.yaml")), key=lambda name: (name != "quickstart", name))


def table(results: Iterable[Result]) -> str:
    """The results as a table of Markdown."""
    rows = [HEADER, ("---",) * len(HEADER), *(result.cells for result in results)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def replaced(page: str, content: str) -> str:
    """``page`` with ``content`` between the two marks."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{README.name} lacks the line {BEGIN!r} or, after it, {END!r}; restore both")
    return f"{before}{BEGIN}\n{content}{END}{after}"


def run(name: str) -> Result:
    """Create the inputs of an example, and run it."""
    make_inputs.EXAMPLES[name](FOLDER)
    server = []
    if name in SERVED:
        model, port = SERVED[name]
        server = [sys.executable, FOLDER / "serve_model.py", FOLDER / model, port]
    load = os.getloadavg()[0]
    began = time.monotonic()
    done = subprocess.run(
        [
            *server,
            Path(sys.executable).parent / "finetune",
            "run",
            "--fresh",
            "--output",
            "json",
            FOLDER / f"{name}.yaml",
        ],
        stdout=subprocess.PIPE,
        check=False,
    )
    seconds = time.monotonic() - began
    result = json.loads(done.stdout or "{}")
    if done.returncode:
        reason = (result.get("failure") or {}).get("message", "see above")
        raise SystemExit(f"The example {name} failed: {reason}")
    found = Result(name, result["job"], result["evaluation"]["metrics"][0], seconds)
    make_inputs.log(f"{name}: {found.cells}, load average {load:.1f} before and {os.getloadavg()[0]:.1f} after")
    return found


def main(chosen: list[str]) -> None:
    """Run the examples, and write or print the table."""
    if unknown := sorted(set(chosen) - set(names())):
        raise SystemExit(f"There is no example {', '.join(unknown)}; choose from {', '.join(names())}")
    written = table([run(name) for name in chosen or names()])
    if chosen:
        make_inputs.log(written)
    else:
        README.write_text(replaced(README.read_text(encoding="utf-8"), written), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
