"""``finetune init``: writes a manifest for a data file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from finetune_api.base import API_GROUP, API_VERSION, KIND
from finetune_api.failures import ExitCode
from finetune_api.spec import TaskSpec
from finetune_api.tables.preferences import PREFERENCES, PreferenceLoss
from finetune_api.tables.tasks import TASKS, TaskType
from finetune_api.text import clean
from finetune_cli.local import LocalError
from finetune_cli.local.trainer import ask
from finetune_cli.manifest import ManifestError, parse
from finetune_cli.output import print_error, write
from finetune_cli.source import scalar

_DOCUMENTS = "what is one document: the whole File, what is between blank lines (BlankLine), or each Line"
_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./:@+=-]*")


def init(data: str, model: str | None, file: str | None) -> int:
    """Write a manifest for the data at an address or path; returns the exit code.

    Raises:
        LocalError: The data cannot be read or is for no task, a file exists, or the trainer is not installed.
    """
    path = Path(data)
    name = job_name(file or (unquote(urlsplit(data).path) if "://" in data else str(path.absolute())))
    target = Path(file or f"{name}.yaml")
    if target.exists():
        raise LocalError(f"{target} exists; name another file with --file, or delete it.", ExitCode.BAD_CONFIGURATION)
    if "://" not in data and not path.exists() and not any(sign in data for sign in "*?["):
        raise LocalError(f"There is no file {data}.", ExitCode.NOT_FOUND)
    if model and "://" not in model and not Path(model).is_dir():
        raise LocalError(f"There is no directory {model}; a model on the hub is hf://owner/name.", ExitCode.NOT_FOUND)
    found = ask("init", {"uri": data if "://" in data else path.absolute().as_uri()}, "data", "examine")
    directory = target.absolute().parent
    text = manifest(name, found, address(data, directory), model and address(model, directory), str(target))
    try:
        parse(text, str(target), directory)
    except ManifestError as error:
        raise LocalError(f"{error.problems[0].message}.", ExitCode.BAD_CONFIGURATION) from error
    try:
        with target.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise LocalError(f"Cannot write {target}: {reason}.", ExitCode.PERMISSION_DENIED) from error
    for note in found["notes"]:
        print_error(f"note: {note}")
    facts = f"; {found['facts']}" if found["facts"] else ""
    write(clean(f"{data} was read as {found['readAs']}, for {found['task']}{facts}."))
    opened = f" {found['open']}" if found["open"] else ""
    write(f"Wrote {target}.{opened} Look at it, then run it with: finetune run {target}")
    return ExitCode.DONE


def manifest(name: str, found: Mapping[str, Any], data: str, model: str | None, file: str) -> str:
    """The manifest as commented YAML.

    Raises:
        LocalError: ``model`` is not given, and there is none to begin with for this task.
    """
    task = TaskType(found["task"])
    row = TASKS[task]
    model = model or row.starting_model
    if not model:
        raise LocalError(f"Name a model for {task} with --model.", ExitCode.BAD_CONFIGURATION)
    facts = f"  # {clean(found['facts'])}" if found["facts"] else ""
    columns = ", ".join(f"{field}: {value(column)}" for field, column in found["columns"].items())
    chosen = [f"    columns: {{{columns}}}"] if columns else []
    documents = [f"    documents: {found['documents']}  # {_DOCUMENTS}"] if found["documents"] else []
    settings, preference = found["settings"], found["preference"]
    spec = TaskSpec.model_validate_json(json.dumps({"type": task, **settings}))
    metrics = spec.default_metrics
    if "loss" in preference:
        metrics = PREFERENCES[PreferenceLoss(preference["loss"])].metrics
    lines = [
        f"# Written by finetune init, which read the data as {clean(found['readAs'])}.",
        f"# Check it with: finetune run {file} --dry-run",
        f"apiVersion: {API_GROUP}/{API_VERSION}",
        f"kind: {KIND}",
        "metadata:",
        f"  name: {value(name)}",
        "spec:",
        "  model:",
        f"    uri: {value(model)}  # hf://owner/name, or file://./directory",
        "  task:",
        f"    type: {task}{facts}",
        *(
            f"    {field}: {value(setting) if isinstance(setting, str) else json.dumps(setting)}"
            for field, setting in settings.items()
        ),
        "  dataset:",
        "    train:",
        f"      uri: {value(data)}",
        *chosen,
        *documents,
        "    # About a tenth of the rows each become the validation and the test split, unless you name files:",
        "    # validation: {uri: file://./validation.jsonl}",
        "    # test: {uri: file://./test.jsonl}",
        *([f"    test: {_flow(found['test'])}  # because there are few rows; add data"] if found["test"] else []),
        "  method:",
        "    type: LoRA  # Full trains all weights",
        *([f"    preference: {_flow(preference)}"] if preference else []),
        "  training:",
        "    epochs: 3",
        "    # batchSize: 32",
        f"    # maxSequenceLength: 256  # tokens; by default the limit of the model, at most {row.lengths_in_words}",
        "  evaluation:",
        "    # The result is compared with a baseline. A gate refuses one that is not good enough:",
        f"    # gates: [{{metric: {metrics[0]}, minimumImprovement: 0.02}}]",
        f"    metrics: [{', '.join(map(str, metrics))}]  # the first is the score",
        *(
            [f"    # allowCodeExecution: true  # runs tests in a sandbox; then add {row.runs_metrics[0]}"]
            if row.runs_metrics and spec.language.row.runs
            else []
        ),
        "  output:",
        "    uri: file://./output  # on a cluster: s3://bucket/prefix",
    ]
    return "\n".join(lines) + "\n"


def _flow(settings: Mapping[str, Any]) -> str:
    """``settings`` as a YAML mapping in one line."""
    fields = (f"{field}: {item if isinstance(item, str) else json.dumps(item)}" for field, item in settings.items())
    return f"{{{', '.join(fields)}}}"


def address(argument: str, directory: Path) -> str:
    """The address of a path, relative to ``directory`` where it is below that; other addresses are unchanged."""
    if "://" in argument:
        return argument
    path = Path(os.path.abspath(argument))
    kept = "/*?[]"
    if path.is_relative_to(directory):
        return f"file://./{quote(str(path.relative_to(directory)), safe=kept)}"
    return f"file://{quote(str(path), safe=kept)}"


def job_name(path: str) -> str:
    """A name for a job, from the name of its data: at most 63 lower-case letters, digits and hyphens."""
    stem = Path(path).name
    while Path(stem).suffix:
        stem = Path(stem).stem
    if stem.lower() in ("train", "data", "training", "") or not re.search(r"[A-Za-z0-9]", stem):
        stem = f"{Path(path).parent.name}-{stem}"
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:63].strip("-") or "job"


def value(text: str) -> str:
    """``text`` as a YAML scalar that is read as text."""
    return text if _PLAIN.fullmatch(text) and scalar(text, plain=True) == text else json.dumps(text)
