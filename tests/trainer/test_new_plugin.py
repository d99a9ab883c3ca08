"""A task is a folder and a row, a method or an export a file and a row: proven on a copy of the source tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.stage import Stage
from tests.trainer.stages import TinyJob, classification_job, write_jsonl
from tests.trainer.tiny_models import LABELS, make_texts
from tests.usual_stages import STAGES

ROOT = Path(__file__).parents[2]
PACKAGES = ("operator/finetune_api", "trainer_image/finetune_trainer")

TASK = """
from finetune_api.tables.tasks import TaskType
from finetune_trainer.prepare.rows import check_headers
from finetune_trainer.tasks.base import Task
from finetune_trainer.tasks.text_classification import TextClassification
from finetune_trainer.tasks.text_classification.preparation import TextClassificationPreparation
from finetune_trainer.tasks.text_classification.rows import LabelledRows


class Preparation(TextClassificationPreparation):
    def row_schema(self, files):
        schema = LabelledRows(self._columns.name("review"), self._columns.name("stars"), self._derived)
        check_headers(files, schema)
        return schema


class StarRating(TextClassification):
    def preparation(self, spec, tokenizer, max_length, config):
        return Preparation(spec, tokenizer, max_length)


task = Task(dict.fromkeys(TaskType.STAR_RATING.row.families, StarRating()), lambda names, rows: None)
"""
METHOD = """
from finetune_trainer.methods.full import Full


class LastLayer(Full):
    form = "A model with another head"

    def attach(self, loaded, attachment):
        for name, parameter in loaded.model.named_parameters():
            parameter.requires_grad = name.startswith(attachment.head)
        return loaded.model

    def describe(self, spec):
        return [("Trained layers", f"the last {spec.method.settings.layers}")]


method = LastLayer()
"""
EXPORT = """
class Listed:
    library = "transformers"
    is_adapter = False

    def write(self, inputs, target):
        (target / "listed.txt").write_text(inputs.spec.method.type)


export = Listed()
"""
ROWS = {
    "tables/tasks.py": [
        ('    INSTRUCTION_TUNING = "InstructionTuning"\n', '    STAR_RATING = "StarRating"\n'),
        (
            "    TaskType,\n    {\n",
            "        TaskType.STAR_RATING: TaskRow(\n"
            '            columns=((Column("review", "the review"), Column("stars", "how many stars")),),\n'
            "            formats=_TABULAR,\n"
            "            metrics=(Metric.ACCURACY, Metric.MACRO_F1),\n"
            "            default_metrics=(Metric.ACCURACY,),\n"
            "            families=(ModelFamily.ENCODER,),\n"
            "            default_length=64,\n"
            '            hub_task="text-classification",\n'
            "        ),\n",
        ),
    ],
    "tables/methods.py": [
        ('    LORA = "LoRA"\n', '    LAST_LAYER = "LastLayer"\n'),
        (
            "    MethodType,\n    {\n",
            "        MethodType.LAST_LAYER: MethodRow(\n"
            '            summary="trains the head", result=Result.MODEL, learning_rate=1e-3,\n'
            '            settings=Settings("last_layer", LastLayerSpec),\n'
            '            refused={task: "whose head has another name" for task in TaskType if task != "StarRating"},\n'
            "        ),\n",
        ),
    ],
    "tables/exports.py": [
        ('    MODEL = "Model"\n', '    LISTED = "Listed"\n'),
        (
            "    Export,\n    {\n",
            '        Export.LISTED: ExportRow(source=Result.MODEL, summary="Also a list.", default=True),\n',
        ),
    ],
}
SETTINGS = '''

class LastLayerSpec(ApiModel):
    """Settings of LastLayer."""

    layers: int = Field(default=1, ge=1, description="Layers that are trained.")
'''


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree with one more task, method and export."""
    root = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    api, trainer = (root / package for package in PACKAGES)
    for name, additions in ROWS.items():
        for after, text in additions:
            insert(api / name, after, text)
    with (api / "method_settings.py").open("a") as file:
        file.write(SETTINGS)
    insert(api / "tables/methods.py", "    LoraSpec,\n", "    LastLayerSpec,\n")
    (trainer / "tasks/star_rating").mkdir()
    (trainer / "tasks/star_rating/__init__.py").write_text(TASK)
    (trainer / "methods/last_layer.py").write_text(METHOD)
    (trainer / "exports/listed.py").write_text(EXPORT)
    return root


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    root = tmp_path_factory.mktemp("stars")
    job = classification_job(root)
    rows = [{"review": text, "stars": LABELS[label]} for text, label in make_texts(240, 1)]
    job.spec["task"] = {"type": "StarRating"}
    job.spec["dataset"] = {"train": {"uri": write_jsonl(root / "stars.jsonl", rows)}}
    job.spec["method"] = {"type": "LastLayer", "lastLayer": {"layers": 2}}
    return job


def insert(path: Path, after: str, text: str) -> None:
    source = path.read_text()
    assert source.count(after) == 1, f"{path}: {after}"
    path.write_text(source.replace(after, after + text))


def python(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str((tree / package).parent) for package in PACKAGES)
    environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


def stages(job: TinyJob, tree: Path) -> Iterator[tuple[Stage, subprocess.CompletedProcess[str]]]:
    """Run every stage of the job as a process of the copied tree."""
    for stage in STAGES:
        config = job.config(stage)
        path = Path(config["terminationMessagePath"]).with_name("stage.json")
        path.write_text(json.dumps(config))
        yield stage, python(tree, "-m", "finetune_trainer", stage, "--config", str(path))


def test_a_new_task_method_and_export_run_through_all_stages(tree: Path, job: TinyJob) -> None:
    for stage, process in stages(job, tree):
        assert process.returncode == 0, f"{stage}: {process.stderr}"
    artifact = job.revision / "artifact"
    assert (artifact / "listed.txt").read_text() == "LastLayer"
    evaluation: dict[str, Any] = json.loads((artifact / "evaluation.json").read_text())
    assert [metric["name"] for metric in evaluation["metrics"]] == ["accuracy"]
    card = (artifact / "README.md").read_text()
    assert "A model with another head for text classification" in card
    assert "| Trained layers | the last 2 |" in card
    assert "StarRating" in (artifact / "report.html").read_text()


def test_rules_schema_and_documentation_follow_from_the_rows(tree: Path) -> None:
    schema = python(tree, "-m", "finetune_api.crd").stdout
    assert "method LastLayer is not for TextClassification or" in schema
    assert "whose head has another name; use LoRA" in " ".join(schema.split())
    assert "lastLayer is only valid for type LastLayer" in schema
    assert "dataset.columns of StarRating are review and stars" in schema
    assert "`StarRating`" in python(tree, "-m", "finetune_api.support").stdout


def test_a_member_without_a_row_is_an_import_error_that_names_it(tree: Path, tmp_path: Path) -> None:
    copied = tmp_path / "tree"
    shutil.copytree(tree, copied)
    insert(copied / "operator/finetune_api/tables/tasks.py", '    STAR_RATING = "StarRating"\n', '    OCR = "Ocr"\n')
    process = python(copied, "-c", "import finetune_api.job")
    assert "ImportError: TaskType.OCR has no row" in process.stderr


def test_a_plugin_that_lacks_a_method_is_refused_when_it_is_loaded(tree: Path, tmp_path: Path) -> None:
    copied = tmp_path / "tree"
    shutil.copytree(tree, copied)
    (copied / "trainer_image/finetune_trainer/methods/last_layer.py").write_text("class M: ...\nmethod = M()\n")
    program = (
        "from finetune_api.tables.methods import MethodType\n"
        "from finetune_trainer.methods import method_of\n"
        "method_of(MethodType.LAST_LAYER)"
    )
    process = python(copied, "-c", program)
    assert "finetune_trainer.methods.last_layer:method lacks attach, " in process.stderr
