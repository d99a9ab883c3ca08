"""``finetune advise`` from end to end: the command, the real trainer, a tiny model."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.failures import ExitCode, StageFailure
from finetune_api.job import FineTuneJob
from finetune_cli.advise.advise import advise
from finetune_cli.local import LocalError
from finetune_cli.manifest import load
from finetune_cli.output import Output
from finetune_cli.overrides import overridden, overrides_of
from finetune_trainer import costs, suitability
from tests.trainer.pair_models import save_t5
from tests.trainer.stages import write_jsonl
from tests.trainer.teacher_models import save_classifier, save_generator
from tests.trainer.test_cli_run import Desk
from tests.trainer.tiny_models import make_texts, save_llama

SEARCH_LINE = "method: {type: PromptSearch, promptSearch: {propose: 4}}"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path).write(steps=4)
    (tmp_path / "scratch").mkdir()
    desk.environment["TMPDIR"] = str(tmp_path / "scratch")
    return desk


def left(desk: Desk) -> list[str]:
    """What a command has left, besides the inputs."""
    return sorted(
        name for name in os.listdir(desk.root) if name not in ("base", "train.jsonl", "job.yaml", "scratch")
    ) + [str(path) for path in (desk.root / "scratch").iterdir() if path.name.startswith("finetune-")]


def overridden_job(desk: Desk, *changes: str) -> FineTuneJob:
    """The job of the manifest with changes as of ``--set``."""
    return load(str(desk.root / "job.yaml"), lambda document: overridden(document, overrides_of(changes)))


def test_methods_and_trials_and_nothing_is_left(desk: Desk) -> None:
    code, out, err = desk.finetune(
        "advise", "job.yaml", "--try", "1", "--models", f"base,{desk.root / 'nothing'}", "-o", "json"
    )
    assert code == 0, err
    found = json.loads(out)
    methods = {(one["method"], one["quantization"]): one for one in found["methods"]}
    (trial,) = found["trials"]
    tried = methods[(trial["method"], "None")]
    assert tried["rank"] == 1
    assert trial["trainedParameters"] == tried["trainedParameters"]
    assert trial["steps"] == 4
    assert trial["validationLoss"] > 0
    assert tried["memoryBytes"] == pytest.approx(trial["peakMemoryBytes"], rel=0.5)
    assert tried["seconds"] == trial["wholeTrainingSeconds"]
    assert tried["measuredIn"] == "tried"
    assert (found["recommendation"]["method"], found["recommendation"]["quantization"]) == (trial["method"], "None")
    assert {one["reason"].partition(",")[0] for one in found["refused"]} == {
        "model.quantization cannot be combined with method Full",
        "model.quantization cannot be combined with method IA3",
    }
    assert left(desk) == []


@pytest.fixture
def here(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The command in this process, which has imported the libraries, and answers the questions to the trainer."""
    monkeypatch.setenv("FINETUNE_HOME", desk.environment["FINETUNE_HOME"])
    monkeypatch.setattr(tempfile, "tempdir", str(desk.root / "scratch"))
    monkeypatch.chdir(desk.root)

    def ask(_: str, request: Mapping[str, Any], *, question: str, scratch: Path) -> Mapping[str, Any]:
        document, directory = json.dumps(request), scratch / question
        directory.mkdir()
        try:
            if question == "costs":
                return costs.costs(costs.Request.model_validate_json(document), directory)
            return suitability.suitability(suitability.Request.model_validate_json(document), directory)
        except StageFailure as failure:
            raise LocalError(failure.message, ExitCode.INTERNAL) from None

    monkeypatch.setattr("finetune_cli.advise.costs.ask", ask)
    monkeypatch.setattr("finetune_cli.advise.models.ask", ask)
    return desk


def test_base_models_must_have_the_tokens_of_the_teacher(here: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = save_classifier(here.root / "teacher")
    save_llama(here.root / "other")
    changes = (f"distillation.teacher.uri={teacher.as_uri()}", "method.type=Full")
    document = overridden_job(here, *changes)
    models = f"base,other,{here.root / 'nothing'}"
    assert advise("job.yaml", document, None, models=[models], output=Output.JSON) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["notes"][-1] == "Memory, and times that were measured, include the teacher of spec.distillation."
    scores = {one["uri"].rpartition("/")[2]: one for one in found["models"]}
    assert [one for one, score in scores.items() if score["value"] is not None] == ["base"]
    assert scores["base"]["measure"].startswith("accuracy of the ")
    assert 0 < scores["base"]["value"] <= 1
    assert "use a teacher of the same family" in scores["other"]["problem"]
    assert "There is no model at" in scores["nothing"]["problem"]


@pytest.mark.parametrize("served", [True, False], ids=["endpoint", "model"])
def test_prompts_without_answers_that_a_teacher_answers(
    here: Desk, capsys: pytest.CaptureFixture[str], served: bool
) -> None:
    base = save_generator(here.root / "decoder")
    write_jsonl(here.root / "prompts.jsonl", [{"prompt": text} for text, _ in make_texts(40, 1)])
    answered = [{"prompt": text, "completion": "rain"} for text, _ in make_texts(10, 2)]
    endpoint = {"url": "http://127.0.0.1:9/v1", "model": "large"}
    teacher: dict[str, Any] = {"endpoint": endpoint} if served else {"uri": base.as_uri()}
    document = yaml.safe_load((here.root / "job.yaml").read_text())
    document["spec"] = {
        "model": {"uri": base.as_uri()},
        "task": {"type": "InstructionTuning"},
        "dataset": {
            "train": {"uri": "file://./prompts.jsonl"},
            "test": {"uri": write_jsonl(here.root / "answered.jsonl", answered)},
            "columns": {"prompt": "prompt", "completion": "completion"},
        },
        "distillation": {"mode": "Responses", "teacher": teacher},
        "output": {"uri": "file://./out"},
    }
    (here.root / "job.yaml").write_text(yaml.safe_dump(document))
    assert advise("job.yaml", overridden_job(here), None, output=Output.JSON) == 0
    found = json.loads(capsys.readouterr().out)
    assert "The teacher would be asked up to 50 questions; advise asks none." in found["notes"][0]
    assert found["data"]["bits"] is None
    assert found["recommendation"]["method"] == "LoRA"
    assert {one["method"] for one in found["methods"] if one["fits"]} == {"Full", "LoRA"}


def test_a_model_behind_an_endpoint_is_only_asked(here: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    document = yaml.safe_load((here.root / "job.yaml").read_text())
    document["spec"] |= {
        "model": {"endpoint": {"url": "http://127.0.0.1:9/v1", "model": "large", "maxRequests": 50, "maxTokens": 20}},
        "method": {"type": "PromptSearch", "promptSearch": {"candidates": ["{text}"], "trials": 3, "examples": 10}},
    }
    (here.root / "job.yaml").write_text(yaml.safe_dump(document))
    assert advise("job.yaml", overridden_job(here), None, models=["base"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "large is behind an endpoint, so only PromptSearch is possible" in text
    assert "50 to score up to 3 combinations of an instruction with examples, each on 10 validation rows" in text
    assert "50 requests may not be enough, and the job fails above them" in text
    assert "20 tokens may not be enough, and the job fails above them" in text
    assert "accuracy of the" in text


@pytest.mark.parametrize("asked", [True, False], ids=["search", "no method"])
def test_a_model_that_only_a_search_is_for(here: Desk, capsys: pytest.CaptureFixture[str], asked: bool) -> None:
    save_t5(here.root / "t5", [text for text, _ in make_texts(40, 1)])
    document = yaml.safe_load((here.root / "job.yaml").read_text())
    document["spec"]["model"] = {"uri": (here.root / "t5").as_uri()}
    search = {"type": "PromptSearch", "promptSearch": {"candidates": ["{text}"], "trials": 3}}
    document["spec"] = {name: one for name, one in document["spec"].items() if name not in ("method", "training")}
    document["spec"] |= {"method": search} if asked else {}
    (here.root / "job.yaml").write_text(yaml.safe_dump(document))
    assert advise("job.yaml", overridden_job(here), None, output=Output.JSON) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recommendation"]["method"] == "PromptSearch"
    assert found["recommendation"]["manifest"] == ([] if asked else [SEARCH_LINE])
    fitting = [one["method"] for one in found["methods"] if one["fits"]]
    assert fitting == ["PromptSearch"] * 3
    assert all("cannot be tuned" in one["reason"] for one in found["methods"] if not one["fits"])
    exact, nf4, int8 = (one["memoryBytes"] for one in found["methods"] if one["fits"])
    assert nf4 < int8 < exact


def test_settings_of_a_method_that_are_wrong_are_said(here: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    save_llama(here.root / "decoder")
    document = yaml.safe_load((here.root / "job.yaml").read_text())
    document["spec"]["model"] = {"uri": (here.root / "decoder").as_uri()}
    document["spec"]["method"] = {"type": "LoRA", "lora": {"targetModules": ["nothing"]}}
    (here.root / "job.yaml").write_text(yaml.safe_dump(document))
    assert advise("job.yaml", overridden_job(here), None) == ExitCode.BAD_CONFIGURATION
    assert "nothing" in capsys.readouterr().out.splitlines()[-1]


def test_ctrl_c_in_a_trial_leaves_nothing(here: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    here.write(steps=1000)
    scratch = here.root / "scratch"
    ended = threading.Event()

    def interrupt() -> None:
        while not ended.is_set() and not list(scratch.glob("finetune-*/try-1/state/r1/train-1/log.txt")):
            time.sleep(0.02)
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        code = advise("job.yaml", overridden_job(here), None, tries=2)
    finally:
        ended.set()
        thread.join()
    captured = capsys.readouterr()
    assert code == 130
    assert "train: started" in captured.out
    assert captured.err.splitlines()[-1] == "Stopped; nothing was stored."
    assert left(here) == []
