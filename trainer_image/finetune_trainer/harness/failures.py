"""Exceptions of lm-eval and its libraries as failures that name the task."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.exceptions import first_line


@contextmanager
def explained(task: str, dataset: Any = None) -> Iterator[None]:
    """Convert exceptions into a StageFailure that names the task, and its data set where that is the cause.

    Raises:
        StageFailure: Unavailable (the hub does not respond), NotFound (no such data set, or not in the cache),
            BadData (invalid data files), BadConfiguration otherwise.
    """
    try:
        yield
    except (StageFailure, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise _failure(task, dataset, error) from error


def _failure(task: str, dataset: Any, error: Exception) -> StageFailure:
    import httpx2
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from jinja2.exceptions import SecurityError, TemplateError, UndefinedError

    from finetune_trainer.patches.lm_eval import HubCodeError

    line = first_line(error)
    data = f"the data set {f'{dataset} ' if dataset else ''}of the lm-eval task {task}"
    reason = Reason.BAD_CONFIGURATION
    match error:
        case HubCodeError():
            problem = (
                f"The lm-eval task {task} uses the metric {error}, which is Python code of the hub; choose another"
            )
        case OfflineModeIsEnabled() | ConnectionError() if _offline(line):
            reason = Reason.NOT_FOUND
            problem = (
                f"{data} is not in the cache, and HF_HUB_OFFLINE or HF_DATASETS_OFFLINE prevents the download: add it "
                "to the cache, or unset the variable"
            )
        case DatasetNotFoundError():
            reason = Reason.NOT_FOUND
            problem = f"{data} does not exist on the hub, or HF_TOKEN of model.secretRef has no access to it"
        case ConnectionError() | httpx2.HTTPError() | HfHubHTTPError():
            reason = Reason.UNAVAILABLE
            problem = f"cannot reach the hub for {data}: check the network, and HF_ENDPOINT if it is set"
        case DatasetsError():
            reason = Reason.BAD_DATA
            problem = f"The data of the lm-eval task {task} cannot be read: {first_line(_root(error))}"
        case SecurityError():
            problem = f"A template of the lm-eval task {task} accesses Python objects, which is not allowed: {line}"
        case UndefinedError():
            reason = Reason.BAD_DATA
            problem = f"A template of the lm-eval task {task} uses a column that its data lacks: {line}"
        case TemplateError():
            problem = f"A template of the lm-eval task {task} is not valid: {line}"
        case KeyError() | IndexError():
            problem = _lacking(task, error)
        case _:
            problem = f"The lm-eval task {task} cannot be used: {line} ({type(error).__name__})"
    return StageFailure(reason, problem[0].upper() + problem[1:])


def _lacking(task: str, error: LookupError) -> str:
    if isinstance(error, KeyError):
        return f"The lm-eval task {task} names {error}, which is no split or column of its data"
    return (
        f"The first example of the lm-eval task {task} lacks an item that the task names ({first_line(error)}): if it "
        "is the right choice, indices in doc_to_target count from 0"
    )


def _offline(line: str) -> bool:
    return "OfflineMode" in line or any(
        os.environ.get(name) == "1" for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    )


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
