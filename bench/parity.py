"""What our train and evaluate stages find compared with plain scripts. Prints one JSON line for each figure.

- ``parity.summarization`` and ``parity.translation``: the largest difference of the loss of a step to Seq2SeqTrainer's
  (`plain_seq2seq.py`), on the data and the model of the examples without dropout. Rounding in FP32 differs with the
  padding; each step adds to it, and a higher learning rate more.
- ``parity.questions``: SQuAD F1, in points, of our stages and of a script with transformers' own loss and decoding
  (`plain_question_answering.py`), with the same model, settings, seed and order of rows, and without dropout.

One process each. Run with `python -m bench.parity [--only questions]`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.train import EXAMPLES, ROOT, Job, report, run

STEPS, BATCH, RATE = 40, 16, 3e-4
QUESTIONS = {"maxSteps": 150, "batchSize": 16, "maxSequenceLength": 128}
QUESTION_RATE = 1e-4
SEEDS = (17, 18)
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "summarization": ("summaries", {"type": "Summarization"}),
    "translation": ("phrases", {"type": "Translation", "sourceLanguage": "en", "targetLanguage": "de"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*TASKS, "questions"])
    only = parser.parse_args().only
    for name in [only] if only else [*TASKS, "questions"]:
        example = "question-answering" if name == "questions" else name
        subprocess.run(
            [sys.executable, str(EXAMPLES / "make_inputs.py"), example], check=True, stdout=subprocess.DEVNULL
        )
        with tempfile.TemporaryDirectory() as scratch:
            if name == "questions":
                questions(Path(scratch))
            else:
                pairs(name, Path(scratch))


def pairs(name: str, root: Path) -> None:
    """The loss of each step of a text-to-text task."""
    folder, task = TASKS[name]
    model = without_dropout(EXAMPLES / "models/small-seq2seq", root / "model")
    job = a_job(
        root,
        model,
        task,
        EXAMPLES / "data" / folder,
        {"maxSteps": STEPS, "batchSize": BATCH, "learningRate": RATE, "evaluateEverySteps": STEPS},
    )
    job.train()
    history = json.loads((job.revision / "trained/history.json").read_text())["train"]
    settings = ["--steps", str(STEPS), "--batch", str(BATCH), "--rate", str(RATE)]
    printed = run(
        [sys.executable, str(ROOT / "bench/plain_seq2seq.py"), str(job.prepared), str(model), *settings], "cpu"
    )
    theirs = json.loads(printed.strip().splitlines()[-1])
    differences = [abs(mine["loss"] - loss) for mine, loss in zip(history, theirs, strict=True)]
    shown = {f"step{step}": float(f"{differences[step - 1]:.1e}") for step in (1, 10, 20, 30, STEPS)}
    largest = max(differences)
    report(f"parity.{name}", largest, "nats/token", digits=7, first=theirs[0], last=theirs[-1], **shown)


def questions(root: Path) -> None:
    """SQuAD F1 of an encoder that is fully fine-tuned."""
    model = without_dropout(EXAMPLES / "models/minilm", root / "model")
    ours, plain = [], []
    for seed in SEEDS:
        training = {**QUESTIONS, "learningRate": QUESTION_RATE, "seed": seed}
        data = EXAMPLES / "data/questions"
        job = a_job(root / str(seed), model, {"type": "QuestionAnswering"}, data, training, suffix="json")
        job.train()
        job.stage("evaluate", job.revision.parent.name)
        metrics = json.loads((job.revision / "evaluated/evaluation.json").read_text())["metrics"]
        ours.append(next(metric["tuned"] for metric in metrics if metric["name"] == "squad_f1"))
        settings = {"steps": training["maxSteps"], "batch": training["batchSize"], "rate": QUESTION_RATE}
        settings |= {"length": training["maxSequenceLength"], "seed": seed}
        arguments = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        script = str(ROOT / "bench/plain_question_answering.py")
        printed = run([sys.executable, script, str(job.prepared), str(model), *arguments], "cpu")
        plain.append(json.loads(printed.strip().splitlines()[-1])["squad_f1"])
        report("parity.questions.seed", 100 * (ours[-1] - plain[-1]), "points", ours=ours[-1], plain=plain[-1])
    report("parity.questions", 100 * (statistics.mean(ours) - statistics.mean(plain)), "points", seeds=len(SEEDS))


def a_job(
    root: Path, model: Path, task: dict[str, Any], data: Path, training: dict[str, Any], *, suffix: str = "jsonl"
) -> Job:
    """A job with one process and without ZeRO."""
    spec = {
        "model": {"uri": model.as_uri()},
        "task": task,
        "dataset": {name: {"uri": (data / f"{name}.{suffix}").as_uri()} for name in ("train", "test")},
        "method": {"type": "Full"},
        "training": {"maxBatchSizePerDevice": BATCH, **training},
    }
    return Job(root / "job", spec, zero=0, processes=1)


def without_dropout(model: Path, directory: Path) -> Path:
    """A copy of a model that drops nothing out, because both sides draw other numbers."""
    shutil.copytree(model, directory)
    config = json.loads((directory / "config.json").read_text())
    changed = {name: 0.0 if "dropout" in name and isinstance(value, float) else value for name, value in config.items()}
    (directory / "config.json").write_text(json.dumps(changed, indent=2))
    return directory


if __name__ == "__main__":
    main()
