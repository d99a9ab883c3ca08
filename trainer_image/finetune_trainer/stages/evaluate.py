"""The evaluate stage: compares both models, checks gates and stores evaluation, predictions and report."""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from finetune_api import layout
from finetune_api.evaluation import Baseline, Evaluation, EvaluationFile
from finetune_api.events import EvaluationEvent
from finetune_api.failures import Reason, StageFailure
from finetune_api.manifest import Manifest
from finetune_api.stage import Device, EvaluateResult, StageConfig
from finetune_trainer import storage
from finetune_trainer.context import Reporter, StageContext
from finetune_trainer.evaluate.overfitting import overfitting
from finetune_trainer.harness.files import TaskFiles, fetch_tasks
from finetune_trainer.harness.library import use_library
from finetune_trainer.importing import heavy_imports
from finetune_trainer.json_files import read_json_if_present
from finetune_trainer.manifests import fetch_directory, publish_directory, read_manifest
from finetune_trainer.methods import method_of
from finetune_trainer.models import fetch_model
from finetune_trainer.prepared import DataReport, effective_spec, read_report
from finetune_trainer.sandbox import open_sandbox
from finetune_trainer.splits import open_split
from finetune_trainer.tasks import form_for
from finetune_trainer.teachers import fetch_pinned

if TYPE_CHECKING:
    from finetune_api.evaluation import MetricResult
    from finetune_trainer.evaluate.comparison import Comparison, EvaluationInputs
    from finetune_trainer.evaluate.exact_base import ExactBase
    from finetune_trainer.harness.evaluation import HarnessResult
    from finetune_trainer.tasks.base import TaskForm

_log = logging.getLogger(__name__)


def run(context: StageContext) -> EvaluateResult:
    """Compare the tuned model with its baseline on the test split.

    A failed gate is a result, not a failure: ``evaluation.gates`` contains it, and the report is stored. If an earlier
    attempt has stored the evaluation of the same weights, its result is returned.

    Raises:
        StageFailure: NotFound (no trained weights or prepared data), BadConfiguration (the model does not fit the
            data, or the weights were trained on other data), Diverged (outputs that are not finite), OutOfMemory, and
            the failures of storage.
    """
    config = context.config
    weights = trained_digest(config)
    harness_path = config.spec.evaluation.harness_path
    files = fetch_tasks(harness_path, context.workspace / "harness") if harness_path else None
    origin = _origin(config, weights, files)
    earlier = _earlier_result(config, origin)
    if earlier is not None:
        _report_metrics(context.reporter, earlier.evaluation)
        return earlier

    return _evaluated(context, origin, files)


def _evaluated(context: StageContext, origin: dict[str, str | None], files: TaskFiles | None) -> EvaluateResult:
    """Evaluate the weights of ``origin``, and store the result."""
    config, reporter = context.config, context.reporter
    reporter.progress("fetching the trained weights, the data and the base model")
    trained, prepared = context.workspace / "trained", context.workspace / "prepared"
    trained_manifest = fetch_directory(config.layout.trained, trained)
    prepared_manifest = fetch_directory(config.layout.prepared, prepared)
    data = read_report(prepared)
    _check_inputs(config, trained_manifest, data)
    spec = effective_spec(config.spec, data)
    base = fetch_model(config.spec.model, context.workspace / "model", weights=True, revision=data.model.revision)

    reporter.progress("importing torch and transformers")
    with heavy_imports():
        from finetune_trainer.evaluate.comparison import SPLIT, EvaluationInputs
        from finetune_trainer.evaluate.exact_base import on_exact_base
        from finetune_trainer.evaluate.previous import measured_against
        from finetune_trainer.evaluate.slices import slice_tables
        from finetune_trainer.evaluate.teacher import beside_teacher
        from finetune_trainer.evaluate.untuned import untuned_score
        from finetune_trainer.modelling.gpus import require_gpus
        from finetune_trainer.modelling.loading import set_up
        from finetune_trainer.modelling.precision import Hardware
        from finetune_trainer.modelling.quantizing import rounding_of
        from finetune_trainer.report.page import ReportInputs, render

    against = measured_against(config, data, prepared, context.workspace / "previous")
    set_up(spec.training.seed)
    if config.world.device is Device.GPU:
        require_gpus("evaluation", 1)
    task = form_for(spec, data.family)
    hardware = Hardware.of(spec.training.precision, config.world.device)
    with open_sandbox(config) if spec.evaluation.allow_code_execution else nullcontext() as sandbox:
        inputs = EvaluationInputs(
            spec=spec,
            base=base.path,
            trained=trained,
            prepared=prepared,
            data=against.data,
            model_class=task.model_class(data),
            method=method_of(spec.method.type),
            hardware=hardware,
            reporter=reporter,
            sandbox=sandbox,
            rounding=rounding_of(spec, task, hardware.device),
            start=against.start,
            previous=against.previous,
            answers=config.job_layout.answers,
            teacher=fetch_pinned(spec, data, context.workspace / "teacher"),
        )
        comparison = task.compare(inputs)
        exact = on_exact_base(comparison, inputs, task)
        untuned = untuned_score(comparison, inputs, task)
        comparison, costs = beside_teacher(comparison, inputs, task)
    harness = _harness(inputs, task, files, context.workspace / "harness") if spec.evaluation.harness else None
    metrics = comparison.metrics + (harness.metrics if harness else ())
    details = comparison.details | against.details | untuned | ({"harness": harness.details} if harness else {})
    slices = slice_tables(spec.evaluation.slices, open_split(prepared, SPLIT), comparison.measure)
    tables = comparison.tables | ({"slices": slices} if slices else {})
    evaluation = _evaluation(inputs, comparison, exact, metrics, slices, notes=against.notes).model_copy(
        update={"harness_digest": origin["harnessDigest"], "costs": costs}
    )
    _report_metrics(reporter, evaluation)

    reporter.progress("writing the report")
    page = render(
        ReportInputs(
            job=config.job,
            spec=spec,
            data=data,
            evaluation=evaluation,
            details=details,
            tables=tables,
            predictions=comparison.predictions,
            history=read_json_if_present(trained / layout.HISTORY),
            training=read_json_if_present(trained / layout.TRAINING),
            digests={
                "Prepared data": prepared_manifest.digest,
                "Trained weights": trained_manifest.digest,
                "Spec": config.job.spec_digest,
            },
        )
    )
    output = context.workspace / "evaluated"
    file = EvaluationFile(**dict(evaluation), details=details | tables)
    _write(output, file, comparison.predictions, page)
    if harness:
        _write_lines(output / layout.HARNESS, harness.rows)
    manifest = publish_directory(
        output,
        config.layout.evaluated,
        {**origin, "preparedDigest": prepared_manifest.digest, "baseline": details},
    )
    return EvaluateResult(uri=config.layout.evaluated, digest=manifest.digest, evaluation=evaluation)


def _evaluation(
    inputs: EvaluationInputs,
    comparison: Comparison,
    exact: ExactBase,
    metrics: tuple[MetricResult, ...],
    slices: list[dict[str, Any]],
    *,
    notes: tuple[str, ...],
) -> Evaluation:
    """The evaluation with its gates; ``metrics`` are those of the comparison and of lm-eval, and ``notes`` say what
    the tuned model is measured against.
    """
    from finetune_trainer.evaluate.comparison import SPLIT
    from finetune_trainer.evaluate.gates import check_gates
    from finetune_trainer.evaluate.pairing import digest_of
    from finetune_trainer.evaluate.power import notes_after
    from finetune_trainer.evaluate.slices import short
    from finetune_trainer.evaluate.teacher_answers import answers_notes

    spec, examples = inputs.spec.evaluation, len(comparison.predictions)
    validation = read_json_if_present(inputs.trained / layout.HISTORY).get("validation", ())
    return Evaluation(
        split=SPLIT,
        examples=examples,
        baseline=Baseline(kind=comparison.baseline),
        metrics=metrics,
        verdict=comparison.metrics[0].verdict,
        test_digest=digest_of(comparison.predictions),
        gates=check_gates(spec, metrics),
        notes=(
            *notes,
            *comparison.notes,
            *answers_notes(comparison.details),
            *notes_after(spec, comparison.metrics, examples),
            *overfitting(validation),
            *exact.notes,
        ),
        slices=short(slices, comparison.metrics[0].name),
        span_decoding=comparison.span_decoding,
        exact_base=exact.result,
    )


def read_evaluation(uri: str) -> Evaluation:
    """Read ``evaluation.json`` in the directory ``uri``.

    Raises:
        StageFailure: BadData when the file is not a valid evaluation.
    """
    try:
        content = storage.read_bytes(storage.join(uri, layout.EVALUATION))
        return EvaluationFile.model_validate_json(content).evaluation
    except ValidationError:
        raise StageFailure(
            Reason.BAD_DATA,
            f"{uri}/{layout.EVALUATION} is not a valid evaluation; delete {uri} and run the evaluate stage again",
        ) from None


def trained_digest(config: StageConfig) -> str:
    """Digest of the manifest of the trained weights. When a later publication has deleted them, the artifact has it.

    Raises:
        StageFailure: NotFound when the revision has neither weights nor an artifact.
    """
    trained = read_manifest(config.layout.trained)
    if trained is not None:
        return trained.digest
    artifact = read_manifest(config.layout.artifact)
    if artifact is not None and artifact.provenance.get("specDigest") == config.job.spec_digest:
        return str(artifact.provenance["trainedDigest"])
    raise StageFailure(
        Reason.NOT_FOUND, f"There are no trained weights at {config.layout.trained}; run the train stage first"
    )


def _check_inputs(config: StageConfig, trained: Manifest, data: DataReport) -> None:
    if trained.provenance.get("inputsDigest") != data.inputs_digest:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"The weights at {config.layout.trained} were trained on other data, or another base model, than "
            f"{config.layout.prepared} was prepared from: delete both and run the job again",
        )


def _harness(inputs: EvaluationInputs, task: TaskForm, files: TaskFiles | None, scratch: Path) -> HarnessResult:
    """Measure the tasks of lm-eval."""
    use_library()  # lm-eval imports itself with the evaluation.
    inputs.reporter.progress("importing lm-eval")
    with heavy_imports():
        from finetune_trainer.harness.evaluation import evaluate_tasks

    return evaluate_tasks(inputs, task, files, scratch)


def _origin(config: StageConfig, weights: str, files: TaskFiles | None) -> dict[str, str | None]:
    """The part of the provenance that determines the result.

    The previous model is not: a revision is measured once, and stays so when a job returns to it.
    """
    return {
        "specDigest": config.job.spec_digest,
        "trainedDigest": weights,
        "harnessDigest": files.digest if files else None,
    }


def _earlier_result(config: StageConfig, origin: dict[str, str | None]) -> EvaluateResult | None:
    """The result that an earlier attempt stored for the same weights and task files; another result is deleted."""
    present = read_manifest(config.layout.evaluated)
    if present is None:
        return None
    if all(present.provenance.get(key) == value for key, value in origin.items()):
        evaluation = read_evaluation(config.layout.evaluated)
        return EvaluateResult(uri=config.layout.evaluated, digest=present.digest, evaluation=evaluation)
    _log.info("deleting %s, because it is an evaluation of other weights or task files", config.layout.evaluated)
    storage.delete_tree(config.layout.evaluated)
    return None


def _report_metrics(reporter: Reporter, evaluation: Evaluation) -> None:
    for metric in evaluation.metrics:
        if metric.baseline is not None:
            reporter.send(EvaluationEvent(model="baseline", metric=metric.name, value=metric.baseline))
        if metric.teacher is not None:
            reporter.send(EvaluationEvent(model="teacher", metric=metric.name, value=metric.teacher))
        reporter.send(EvaluationEvent(model="tuned", metric=metric.name, value=metric.tuned))


def _write(output: Path, evaluation: EvaluationFile, predictions: list[dict[str, Any]], page: str) -> None:
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    document = json.dumps(evaluation.model_dump(mode="json", exclude_none=True), indent=2) + "\n"
    (output / layout.EVALUATION).write_text(document, encoding="utf-8")
    _write_lines(output / layout.PREDICTIONS, predictions)
    (output / layout.REPORT).write_text(page, encoding="utf-8")


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
