"""Speed of ranking labels with what they share computed once, compared with a row for each. Prints one JSON line for
each figure.

- ``labels.N``: the small model of the example `prompt-search` ranks languages behind prompts with N examples.

Both sides rank the same rows, in alternation, in FP32 on the CPU, and are measured in seconds of the CPU. Their losses
must be equal to 1e-5, and their choices the same. Run with `python -m bench.labels [--pairs 3] [--rows 48]`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForCausalLM

from bench.train import EXAMPLES, report
from finetune_api.spec import FineTuneJobSpec, Precision
from finetune_api.stage import Device
from finetune_trainer.context import Reporter
from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.methods import method_of
from finetune_trainer.modelling.batching import TokenRows
from finetune_trainer.modelling.precision import Hardware
from finetune_trainer.modelling.tokenizer import load_base_tokenizer
from finetune_trainer.prepared import DataReport
from finetune_trainer.search.prompt import Example, Prompt
from finetune_trainer.search.ranking import Ranker
from finetune_trainer.search.rendering import CausalRenderer
from finetune_trainer.search.templates import SHOTS_TEMPLATE
from finetune_trainer.tasks.base import ModelClass

MODEL = EXAMPLES / "models/small-quiz"
ROWS = EXAMPLES / "data/quiz/train.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=48)
    arguments = parser.parse_args()
    make = [sys.executable, str(EXAMPLES / "make_inputs.py"), "prompt-search"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    inputs, model = _inputs(), AutoModelForCausalLM.from_pretrained(MODEL, dtype="float32").eval()
    tokenizer = load_base_tokenizer(MODEL, "the model", template=SHOTS_TEMPLATE)
    renderer = CausalRenderer(tokenizer, inputs.data)
    labels = sorted({row["language"] for row in rows})
    endings = [tokenizer(label, add_special_tokens=False)["input_ids"] for label in labels]
    for shots in (0, 4):
        examples = tuple(Example({"text": row["text"]}, row["language"], "") for row in rows[:shots])
        asked = [{"text": row["text"]} for row in rows[shots : shots + arguments.rows]]
        table = renderer.table(Prompt("{text}: which language?", examples), asked, ["Answer"] * len(asked))
        prompts = TokenRows.of_column(table["input_ids"]).heads(renderer.lengths(table))
        _compare(f"labels.{shots}", Ranker(inputs, model, seq2seq=False), prompts, endings, arguments.pairs)


def _inputs() -> EvaluationInputs:
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": MODEL.as_uri()},
            "task": {"type": "TextClassification"},
            "dataset": {"train": {"uri": ROWS.as_uri()}},
            "output": {"uri": "file:///unused"},
        },
        strict=False,
    )
    data = DataReport.model_construct(padding=0, template_date=None, handling=_Handling())
    return EvaluationInputs(
        spec=spec,
        base=MODEL,
        trained=Path(),
        prepared=Path(),
        data=data,
        model_class=ModelClass(AutoModelForCausalLM, {}),
        method=method_of(spec.method.type),
        hardware=Hardware.of(Precision.FP32, Device.CPU),
        reporter=Reporter(None),
    )


class _Handling:
    """The part of `finetune_trainer.prepared.ModelHandling` that ranking reads."""

    batching = True


def _compare(name: str, ranker: Ranker, prompts: TokenRows, endings: list[list[int]], pairs: int) -> None:
    """Run both sides in alternation, and print medians and the ratio of each pair."""
    ranker.losses(prompts.take(np.arange(2)), endings, lambda _: None)
    sides: dict[bool, Any] = {True: ranker.losses, False: ranker.plain}
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for pair in range(pairs):
        found = {}
        for shared in (True, False) if pair % 2 else (False, True):
            start = time.process_time()
            found[shared] = sides[shared](prompts, endings, lambda _: None)
            seconds[shared].append(time.process_time() - start)
        difference = float(abs(found[True] - found[False]).max())
        if difference > 1e-5 or (found[True].argmin(axis=1) != found[False].argmin(axis=1)).any():
            raise SystemExit(f"{name}: losses differ by {difference:.2g}, or choices do")
    for side, shared in (("shared", True), ("rows", False)):
        report(f"{name}.{side}", statistics.median(seconds[shared]), "s")
    ratios = [alone / shared for alone, shared in zip(seconds[False], seconds[True], strict=True)]
    report(f"{name}.ratio", statistics.median(ratios), "rows/shared", minimum=min(ratios), maximum=max(ratios))


if __name__ == "__main__":
    main()
