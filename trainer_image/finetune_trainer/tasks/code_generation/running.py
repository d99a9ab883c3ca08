"""CodeGeneration: runs what models have written, where the job allows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from finetune_trainer.evaluate.answer_scoring import AnswerForm, AnswerScoring
from finetune_trainer.evaluate.comparison import EvaluationInputs, ExampleCounter
from finetune_trainer.sandbox.programs import Outcome, Program
from finetune_trainer.tasks.code_generation.scoring import CodeScoring, endings


@dataclass(frozen=True)
class CodeForm(AnswerForm):
    """Programs as answers; they run in the sandbox of the inputs, if these have one."""

    def scoring_for(self, inputs: EvaluationInputs, table: pa.Table) -> AnswerScoring:
        """The scoring runs programs as `finetune_trainer.sandbox.programs.Sandbox.run`."""
        if inputs.sandbox is None:
            return self.scoring(table, inputs.spec)
        sandbox = inputs.sandbox

        def run(programs: Sequence[Program]) -> list[Outcome]:
            counter = ExampleCounter(inputs.reporter, "running the tests", len(programs), unit="programs")
            return sandbox.run(programs, counter.add)

        return CodeScoring(table, inputs.spec, run)

    def details(self, inputs: EvaluationInputs, predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        counted = endings(predictions)
        if inputs.sandbox is None or not any(counted.values()):
            return {}
        return {"sandbox": dict(inputs.sandbox.details), "endings": counted}
