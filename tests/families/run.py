"""Tries every model type of the installed transformers: ``python -m tests.families.run [TASK:TYPE …]``.

Each model type runs in a process of its own, for at most a minute of processor time. A line is appended to the results
at once, so that an interrupted run continues where it was. Results of other versions are dropped.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import resource
import select
import signal
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from tests.families.check import examine
from tests.families.finding import Finding
from tests.families.results import RESULTS, Header, Result, read_results

_PROCESSOR_SECONDS = 60
_SECONDS = 300
"""A machine that does much else needs more time."""
_MEMORY_BYTES = 16 << 30

CLASSES = {
    "CAUSAL_LM": dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    "SEQ_CLS": dict(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
    "SEQ_2_SEQ_LM": dict(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    "QUESTION_ANS": dict(MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES),
}


def main() -> None:
    transformers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    done = _started()
    asked = [tuple(name.split(":")) for name in sys.argv[1:]]
    wanted = asked or [(task, name) for task, names in CLASSES.items() for name in sorted(names)]
    remaining = [one for one in wanted if asked or one not in done]
    _import_what_children_import()
    gc.freeze()  # So that the collector does not copy the pages of the imports into every child.
    for number, (task, name) in enumerate(remaining, start=1):
        result = _in_a_process(task, name)
        with RESULTS.open("a") as file:
            file.write(result.model_dump_json(exclude_defaults=True) + "\n")
        failed = "; ".join(f"{check}: {problem}" for check, problem in result.failed.items())
        sys.stdout.write(f"{number}/{len(remaining)} {task} {name} {result.seconds:.0f} s {failed}\n")
        sys.stdout.flush()


def _started() -> set[tuple[str, str]]:
    """Begin the results with their header, or continue those of the same versions."""
    header = Header(
        transformers=version("transformers"),
        peft=version("peft"),
        classes=CLASSES,
        others=tuple(sorted(CONFIG_MAPPING_NAMES.keys() - set().union(*CLASSES.values()))),
    )
    if RESULTS.is_file():
        present, results = read_results()
        if (present.transformers, present.peft) == (header.transformers, header.peft):
            _, *lines = RESULTS.read_text().splitlines(keepends=True)
            RESULTS.write_text("".join([header.model_dump_json() + "\n", *lines]))  # It may have new tasks.
            return set(results)
    RESULTS.write_text(header.model_dump_json() + "\n")
    return set()


def _import_what_children_import() -> None:
    """Import here what an examination imports late: each of the forks would spend seconds on it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        before = set(sys.modules)
        with tempfile.TemporaryDirectory() as directory:
            for task in CLASSES:
                examine("bart" if task == "SEQ_2_SEQ_LM" else "gpt2", task, Path(directory) / task)
        with os.fdopen(writing, "w") as pipe:
            pipe.write("\n".join(set(sys.modules) - before))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        names = pipe.read().split()
    os.waitpid(child, 0)
    for name in sorted(names):
        with contextlib.suppress(Exception):  # Some modules can be imported only by their package.
            importlib.import_module(name)


def _in_a_process(task: str, name: str) -> Result:
    """Fork, because the imports take longer than the tests of a small model."""
    started = time.monotonic()
    reading, writing = os.pipe()
    answer = b""
    with tempfile.TemporaryDirectory() as directory:
        child = os.fork()
        if child == 0:
            os.close(reading)
            _become_examination(task, name, Path(directory), writing)
        os.close(writing)
        with open(reading, "rb", buffering=0) as pipe:
            if select.select([pipe], [], [], _SECONDS)[0]:
                answer = pipe.readall()
            else:
                os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    seconds = round(time.monotonic() - started, 1)
    if not answer:
        return Result(task=task, type=name, failed={"time": f"no result after {seconds:.0f} s"}, seconds=seconds)
    return Result.model_validate_json(answer).model_copy(update={"seconds": seconds})


def _become_examination(task: str, name: str, directory: Path, writing: int) -> None:
    try:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (_PROCESSOR_SECONDS, _PROCESSOR_SECONDS))
        finding = examine(name, task, directory)
        os.write(writing, result_of(task, name, finding).model_dump_json().encode())
    finally:
        os._exit(0)


def result_of(task: str, name: str, finding: Finding) -> Result:
    """The line of a finding."""
    return Result(
        task=task,
        type=name,
        model_class=finding.model_class,
        attention=finding.attention or None,
        failed={check: problem for check, problem in finding.checks.items() if problem},
        requires={"is_decoder": True} if finding.needs_decoder else {},
        untrained=tuple(finding.untrained),
        unused=finding.unused,
        frozen=tuple(finding.frozen),
    )


if __name__ == "__main__":
    main()
