"""Runs every combination of task, model family, method and quantisation: ``python -m tests.combinations.run [NAME …]``.

A line is appended to the results at once, so that an interrupted run continues where it was; a name runs again.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from finetune_api.failures import Reason
from finetune_api.stage import Stage
from finetune_cli.manifest import ManifestError, load
from tests.combinations.cells import Cell, cells
from tests.combinations.inputs import cell_job
from tests.combinations.results import RESULTS, Outcome, Result, read_results
from tests.trainer.stages import Outcome as Ended
from tests.trainer.stages import TinyJob


def run(cell: Cell, root: Path) -> Result:
    """Run one combination to its end."""
    started = time.monotonic()
    job = cell_job(root, cell)
    outcome, reason = _admitted(job) or _prepared(job) or _worked(job)
    place = str(root)
    return Result(
        cell=cell.name,
        outcome=outcome,
        reason=reason.replace(f"file://{place}", "").replace(place, ""),
        seconds=round(time.monotonic() - started, 1),
    )


def _admitted(job: TinyJob) -> tuple[Outcome, str] | None:
    manifest = job.root / "job.json"
    document = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": job.name}}
    manifest.write_text(json.dumps(document | {"spec": job.spec}))
    try:
        load(str(manifest))
    except ManifestError as error:
        return Outcome.ADMISSION, "; ".join(problem.message for problem in error.problems)
    return None


def _prepared(job: TinyJob) -> tuple[Outcome, str] | None:
    ended = job.run(Stage.PREPARE)
    if ended.code == 0:
        return None
    refused = ended.report.error is not None and ended.report.error.reason is Reason.BAD_CONFIGURATION
    return (Outcome.PREPARE, ended.message) if refused else (Outcome.FAILED, f"prepare: {_said(ended)}")


def _worked(job: TinyJob) -> tuple[Outcome, str]:
    for stage in (Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH):
        ended = job.run(stage)
        if ended.code:
            return Outcome.FAILED, f"{stage}: {_said(ended)}"
    history = json.loads((job.revision / "trained" / "history.json").read_text())
    first, *_, last = (point["loss"] for point in history["validation"])
    if not last < first:
        return Outcome.FAILED, f"the validation loss goes from {first} to {last}"
    if not all(math.isfinite(metric["tuned"]) for metric in job.evaluation["metrics"]):
        return Outcome.FAILED, "a metric is not finite"
    return Outcome.WORKS, ""


def _said(ended: Ended) -> str:
    return ended.report.error.message if ended.report.error else ended.log[-300:]


def _in_a_folder(cell: Cell) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        return run(cell, Path(folder))


def _all(wanted: list[Cell]) -> Iterator[Result]:
    # Each process has a fork server of its own, which ends with it.
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_in_a_folder, wanted)


def main() -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    asked, done = sys.argv[1:], read_results()
    wanted = [cell for cell in cells() if (cell.name in asked if asked else cell.name not in done)]
    failed = 0
    for number, result in enumerate(_all(wanted), start=1):
        with RESULTS.open("a") as file:
            file.write(result.model_dump_json(exclude_defaults=True) + "\n")
        failed += result.outcome is Outcome.FAILED
        ended = f"{result.cell} {result.outcome} {result.seconds:.0f} s {result.reason}"
        sys.stdout.write(f"{number}/{len(wanted)} {ended}\n")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
