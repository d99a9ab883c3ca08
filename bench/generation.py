"""Speed of generated answers in batches compared with one prompt at a time. Prints one JSON line for each figure.

- ``generation.causal``: the small causal model answers prompts of the chat example.
- ``generation.seq2seq``: the small model with an encoder and a decoder summarises docstrings.

Both sides generate greedily with the code of the evaluate stage, in alternation, in FP32 on the CPU. The answers must
be the same. Run with `make bench` or `python -m bench.generation [--pairs 3] [--prompts 64]`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from bench.train import EXAMPLES, Job, report
from finetune_api.spec import FineTuneJobSpec, Precision
from finetune_api.stage import Device
from finetune_trainer.evaluate.generation import Generator
from finetune_trainer.evaluate.prompts import CausalPrompts, Prompts, Seq2SeqPrompts
from finetune_trainer.modelling.precision import Hardware
from finetune_trainer.prepared import DataReport, read_report
from finetune_trainer.splits import open_split

JOBS: Mapping[str, tuple[str, str, type[Prompts], Any]] = {
    "causal": ("chat", "InstructionTuning", CausalPrompts, AutoModelForCausalLM),
    "seq2seq": ("summarization", "Summarization", Seq2SeqPrompts, AutoModelForSeq2SeqLM),
}
"""Example, task, form of the prompts and class of the model."""
NEW_TOKENS = 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=64)
    arguments = parser.parse_args()
    for family, (example, task, form, auto_class) in JOBS.items():
        subprocess.run(
            [sys.executable, str(EXAMPLES / "make_inputs.py"), example], check=True, stdout=subprocess.DEVNULL
        )
        model = EXAMPLES / f"models/small-{family}"
        data = EXAMPLES / "data" / ("chat" if family == "causal" else "summaries")
        with tempfile.TemporaryDirectory() as scratch:
            spec = {
                "model": {"uri": model.as_uri()},
                "task": {"type": task},
                "dataset": {name: {"uri": (data / f"{name}.jsonl").as_uri()} for name in ("train", "test")},
                "evaluation": {"generation": {"maxNewTokens": NEW_TOKENS}},
            }
            prepared = Job(Path(scratch), spec).prepared
            prompts = form.of_table(open_split(prepared, "test").slice(0, arguments.prompts))
            compare(
                f"generation.{family}", Speed(spec, model, read_report(prepared), prompts, auto_class), arguments.pairs
            )


class Speed:
    """A model with its prompts."""

    def __init__(
        self, spec: dict[str, Any], directory: Path, data: DataReport, prompts: Prompts, auto_class: Any
    ) -> None:
        self._settings = FineTuneJobSpec.model_validate(
            spec | {"output": {"uri": "file:///unused"}}, strict=False
        ).evaluation.generation
        self._data = data
        self._prompts = prompts
        self._model = auto_class.from_pretrained(directory, dtype=torch.float32).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(directory)

    def answers(self, batched: bool) -> tuple[list[str], float]:
        """The answers, and the seconds that they took."""
        handling = self._data.handling.model_copy(update={"batched_generation": batched})
        data = self._data.model_copy(update={"handling": handling})
        generator = Generator(data, self._settings, self._tokenizer, Hardware.of(Precision.FP32, Device.CPU))
        start = time.perf_counter()
        return generator.answers(self._model, self._prompts, lambda _: None), time.perf_counter() - start


def compare(name: str, speed: Speed, pairs: int) -> None:
    """Run both sides in alternation, and print medians and the ratio of each pair."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for pair in range(pairs):
        found = {}
        for batched in (True, False) if pair % 2 else (False, True):
            found[batched], took = speed.answers(batched)
            seconds[batched].append(took)
        if found[True] != found[False]:
            raise SystemExit(f"{name}: the answers in batches differ from those one by one")
    for side, batched in (("batched", True), ("alone", False)):
        report(f"{name}.{side}", statistics.median(seconds[batched]), "s")
    ratios = [alone / together for alone, together in zip(seconds[False], seconds[True], strict=True)]
    report(f"{name}.ratio", statistics.median(ratios), "alone/batched", minimum=min(ratios), maximum=max(ratios))


if __name__ == "__main__":
    main()
