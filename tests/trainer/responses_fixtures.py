"""Jobs whose teacher is a server of the tests, up to their prepared data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_api import layout
from finetune_trainer.context import StageContext
from finetune_trainer.splits import open_split
from tests.endpoint_server import Endpoint
from tests.trainer.prepare_fixtures import (
    a_context,
    json_lines,
    stored,
)

CHAT = {"type": "InstructionTuning"}


def prompts(*texts: str, completion: str | None = "reference") -> list[dict[str, Any]]:
    answers = {} if completion is None else {"completion": completion}
    return [{"prompt": text, **answers} for text in texts]


class Job:
    """A job in a directory of its own, whose teacher is ``server``."""

    def __init__(self, root: Path, model: str, server: Endpoint, task: dict[str, Any] | None = None) -> None:
        self._root, self._model, self._server = root, model, server
        self._task = task or CHAT
        self._revision = 0

    def next(
        self,
        train: Sequence[dict[str, Any]],
        validation: Sequence[dict[str, Any]] | None = None,
        test: Sequence[dict[str, Any]] | None = None,
        budget: dict[str, int] | None = None,
        training: dict[str, Any] | None = None,
        *,
        evaluation: dict[str, Any] | None = None,
        teacher: dict[str, Any] | None = None,
        **distillation: Any,
    ) -> StageContext:
        """The context of the next revision with these rows."""
        self._revision += 1
        rows = {"train": train, "validation": validation, "test": test}
        dataset = {
            name: {"uri": json_lines(self._root / f"{name}.jsonl", some)}
            for name, some in rows.items()
            if some is not None
        }
        if test is not None:
            dataset["test"]["minimumExamples"] = 1  # type: ignore[assignment]
        asked = {"endpoint": {"url": self._server.url, "model": "m", **(budget or {})}, **(teacher or {})}
        context = a_context(
            self._root,
            self._model,
            self._task,
            dataset,
            training=training or {},
            evaluation=evaluation or {},
            distillation={"teacher": asked, "mode": "Responses", **distillation},
        )
        identity = context.config.job.model_copy(
            update={"revision": self._revision, "training_revision": self._revision}
        )
        return replace(context, config=context.config.model_copy(update={"job": identity}))


def learned(context: StageContext, split: str = "train") -> list[tuple[str, str]]:
    """The last line of each prompt of a split, and the answer that is learned."""
    rows = open_split(stored(context), split).select(["prompt", "reference"]).to_pylist()
    return [(row["prompt"].splitlines()[-1], row["reference"]) for row in rows]


def measured(context: StageContext) -> list[dict[str, Any]]:
    """The answers of the teacher to the prompts of the test split."""
    return [json.loads(line) for line in (stored(context) / layout.TEACHER_ANSWERS).read_text().splitlines()]
