"""The training in one process of the gang: reads the inputs from local disk and writes the weights to it."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerState, set_seed

from finetune_api import layout
from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, Precision
from finetune_api.stage import Device, StageConfig
from finetune_trainer.checkpoints.resume import MendConverted, make_loadable
from finetune_trainer.checkpoints.upload import BUSY_NAME
from finetune_trainer.context import StageContext
from finetune_trainer.host.inputs import TrainInputs, checkpoint_provenance
from finetune_trainer.methods import method_of
from finetune_trainer.modelling.gpus import hardware_in_words, require_gpus
from finetune_trainer.modelling.precision import Hardware, bf16_supported, resolve_precision
from finetune_trainer.modelling.quantizing import stored_as
from finetune_trainer.modelling.tokenizer import load_prepared_tokenizer
from finetune_trainer.prepared import DataReport, effective_spec, read_report
from finetune_trainer.splits import open_split
from finetune_trainer.tasks import form_of
from finetune_trainer.train.acceleration import accelerate, recompute_if_needed
from finetune_trainer.train.arguments import training_arguments
from finetune_trainer.train.batches import global_batches, tokens_of_batches
from finetune_trainer.train.callbacks import (
    FlowCallback,
    ReportCallback,
    best_validation,
    peak_memory,
    validation_losses,
)
from finetune_trainer.train.compiling import require_compiler
from finetune_trainer.train.data import TrainingDataset
from finetune_trainer.train.distillation import load_distillation
from finetune_trainer.train.export import curves, fetch_weights, final_loss, keep_weights, library_versions, write_json
from finetune_trainer.train.label_weights import label_weights
from finetune_trainer.train.model import load_model
from finetune_trainer.train.settings import TrainPlan, plan_training
from finetune_trainer.train.stop import StopRequest
from finetune_trainer.train.trainer import FineTuneTrainer, validation_batch_size
from finetune_trainer.trained import Trained

if TYPE_CHECKING:
    from finetune_trainer.methods.base import Method
    from finetune_trainer.methods.coverage import Coverage
    from finetune_trainer.train.validation_answers import ValidationAnswers

_log = logging.getLogger(__name__)


def train(context: StageContext, inputs: TrainInputs) -> Trained:
    """Train the model; all ranks call this function.

    Raises:
        StageFailure: Stopped (after SIGTERM and a checkpoint), Diverged, BadConfiguration, BadData, GpuUnavailable.
    """
    config = context.config
    _check_machine(config)
    prepared = Path(inputs.prepared)
    report = read_report(prepared)
    spec = effective_spec(config.spec, report)
    set_seed(spec.training.seed)
    task = form_of(spec.task.type, report.family)
    train_data, validation = (
        task.dataset(open_split(prepared, split), spec, report) for split in ("train", "validation")
    )
    plan = plan_training(spec, len(train_data), config.world.size, report.handling.batching)
    precision = resolve_precision(spec.training.precision, config.world.device, bf16_supported(config.world.device))
    # Before torch.distributed starts, so that no collective times out during a conversion.
    checkpoint = make_loadable(inputs.checkpoint, config, context.reporter) if inputs.checkpoint else None
    hardware = Hardware.of(precision, config.world.device)
    is_main = os.environ["RANK"] == "0"
    if is_main and config.world.workers > 1:
        context.reporter.progress(f"waiting for all {config.world.workers} workers to connect")
    arguments = training_arguments(
        config,
        plan,
        precision,
        Path(config.workspace) / "checkpoints",
        universal=checkpoint is not None and checkpoint.universal,
        unused_parameters=report.handling.unused_parameters,
    )
    if is_main:
        context.reporter.progress(f"loading the model{' and its teacher' if inputs.teacher else ''}")
    model = load_model(
        Path(inputs.model),
        spec,
        report,
        task=task,
        precision=precision,
        device=arguments.device,
        adapter=prepared / layout.ADAPTER_DIRECTORY if report.continued else None,
    )
    objective = task.objective(spec, report, train_data, validation)
    weights = label_weights(task, spec, report)
    method = method_of(spec.method.type)
    acceleration = accelerate(
        model,
        spec,
        report,
        task=task,
        own_loss=not (objective or weights or inputs.teacher),
        precision=precision,
        device=arguments.device,
    )
    coverage, stored = _coverage(method, model), stored_as(model)
    trainable = sum(_size(parameter) for parameter in model.parameters() if parameter.requires_grad)
    busy = Path(config.workspace) / BUSY_NAME
    flow = FlowCallback(StopRequest(context.reporter), busy, spec.training.early_stopping)
    reports = ReportCallback(
        context.reporter,
        tokens_of_step=TokensOfStep(train_data, plan, spec.training.seed),
        provenance=lambda step: checkpoint_provenance(config, report, inputs.data_digest, step),
        best_step=lambda state: _best_step(spec, state),
    )
    trainer = FineTuneTrainer(
        model=model,
        args=arguments,
        train_dataset=train_data,
        task=task,
        pad_token_id=report.padding,
        callbacks=[flow, reports],
        sizes=plan.sizes,
        validation=validation,
        export_checkpoints=spec.training.early_stopping is not None,
        weights=weights,
        objective=objective,
        checkpoint=checkpoint.directory if checkpoint else None,
        method=method,
        reference=method.reference(model, spec),
        rate_factors=method.rate_factors(spec),
        fused=acceleration.loss,
        distillation=None
        if inputs.teacher is None
        else load_distillation(
            Path(inputs.teacher), spec, report, weights=weights, precision=precision, device=arguments.device
        ),
        answers=_validation_answers(prepared, spec, report, plan, hardware),
    )
    if checkpoint and checkpoint.universal:
        trainer.add_callback(MendConverted(checkpoint.directory))
    if is_main:
        context.reporter.progress(
            f"starting the training processes: {plan.steps:,} steps, {plan.steps_per_epoch:,} per epoch"
        )
    if checkpoint is None:
        with hardware.autocast():
            method.initialise(model, spec, trainer.first_batches)
    acceleration.recomputes = recompute_if_needed(trainer, spec, hardware, tries=objective is None)
    trainer.train(resume_from_checkpoint=str(checkpoint.directory) if checkpoint else None)
    state = trainer.state
    if flow.stopped:
        raise StageFailure(
            Reason.STOPPED,
            f"stopped on request after step {state.global_step} of {state.max_steps}; the checkpoint is "
            "stored, and the job resumes from it",
        )
    directory, best = Path(config.workspace) / "trained", _best_step(spec, state)
    _export(trainer, best, config.layout.checkpoints, busy, directory)
    trained = Trained(directory, _summary(trainer, flow, reports, plan, trainable))
    if is_main:
        method.finish(model, directory, spec)
        write_json(directory / layout.HISTORY, curves(state.log_history))
        write_json(
            directory / layout.TRAINING,
            trained.summary
            | _details(config, plan, precision, state, best)
            | ({} if coverage is None else {"adapted": coverage.summary})
            | ({} if stored is None else {"quantization": stored})
            | {"computations": acceleration.in_words},
        )
        _log.info("computations: %s", "; ".join(acceleration.in_words) or "those of PyTorch")
    return trained


def _check_machine(config: StageConfig) -> None:
    if config.world.device is Device.GPU:
        require_gpus("training", config.world.processes_per_worker)
    if config.spec.training.compile:
        require_compiler(config.world.device)


def _coverage(method: Method, model: Any) -> Coverage | None:
    """Which weights ``model`` changes, also in the log of the first rank."""
    coverage = method.coverage(model)
    if coverage is not None and os.environ["RANK"] == "0":
        _log.info("the adapter changes %s of the weights; without an adapter: %s", coverage.changed, coverage.unchanged)
    return coverage


def _summary(
    trainer: FineTuneTrainer, flow: FlowCallback, reports: ReportCallback, plan: TrainPlan, trainable: int
) -> dict[str, Any]:
    """The fields of TrainResult in camelCase, except uri and digest."""
    state = trainer.state
    history = curves(state.log_history)
    return {
        "steps": state.global_step,
        "epochs": round(state.global_step / plan.steps_per_epoch, 4),
        "loss": final_loss(history["train"]),
        "validationLoss": history["validation"][-1]["loss"] if history["validation"] else None,
        "tokens": sum(point["tokens"] for point in history["train"]),
        "tokensPerSecond": reports.train_tokens / reports.train_seconds if reports.train_seconds else 0.0,
        "stoppedEarly": flow.stopped_early,
        "trainableParameters": trainable,
    }


def _details(
    config: StageConfig, plan: TrainPlan, precision: Precision, state: TrainerState, best: int | None
) -> dict[str, Any]:
    """What ``training.json`` says besides the summary."""
    return {
        "world": config.world.model_dump(mode="json"),
        "zeroStage": config.spec.distributed.zero.stage,
        "precision": precision,
        "hardware": hardware_in_words(config.world),
        "seconds": round(sum(entry.get("seconds", 0.0) for entry in state.log_history), 1),
        "finished": datetime.now(UTC).date().isoformat(),
        "batch": {"perDevice": plan.sizes.per_device, "accumulation": plan.sizes.accumulation},
        "seed": config.spec.training.seed,
        "peakMemoryBytes": peak_memory(),
        "weightsOfStep": state.global_step if best is None else best,
        "versions": library_versions(),
    }


def _validation_answers(
    prepared: Path, spec: FineTuneJobSpec, report: DataReport, plan: TrainPlan, hardware: Hardware
) -> ValidationAnswers | None:
    """What generates answers to validation examples; None if the job does not ask for it."""
    form = form_of(spec.task.type, report.family).answer_form()
    if form is None or spec.evaluation.during_training is None:
        return None
    # Not in every job, because the metrics need large packages.
    from finetune_trainer.evaluate.generation import Generator
    from finetune_trainer.train.validation_answers import ValidationAnswers

    generator = Generator(report, spec.evaluation.generation, form.decode(load_prepared_tokenizer(prepared)), hardware)
    validation = open_split(prepared, "validation")
    return ValidationAnswers(validation, form, spec, generator, validation_batch_size(plan.sizes))


class TokensOfStep:
    """Tokens in a step, summed over all processes; steps are counted from 0."""

    def __init__(self, data: TrainingDataset, plan: TrainPlan, seed: int) -> None:
        self._lengths = data.lengths
        self._plan = plan
        self._seed = seed
        self._epoch = -1
        self._counts: list[int] = []

    def __call__(self, step: int) -> int:
        epoch, within = divmod(step, self._plan.steps_per_epoch)
        if epoch != self._epoch:
            batches = global_batches(self._lengths, self._plan.sizes.per_step, self._seed, epoch)
            self._counts = tokens_of_batches(self._lengths, batches).tolist()
            self._epoch = epoch
        return self._counts[within]


def _best_step(spec: FineTuneJobSpec, state: TrainerState) -> int | None:
    """Step of the best weights so far; None without early stopping, which selects the last weights."""
    rule = spec.training.early_stopping
    losses = validation_losses(state)
    return best_validation(losses, rule.min_delta)[0] if rule and losses else None


def _export(trainer: FineTuneTrainer, best: int | None, checkpoints_uri: str, busy: Path, directory: Path) -> None:
    """Write the weights to ``directory``: the best with early stopping, otherwise the last."""
    if best is not None and best != trainer.state.global_step:
        if trainer.is_world_process_zero():
            fetch_weights(checkpoints_uri, best, busy, directory)
        return
    saved = directory.with_name("saved")
    trainer.save_model(str(saved), _internal_call=True)  # On all ranks, because ZeRO-3 gathers the weights.
    if trainer.is_world_process_zero():
        keep_weights(saved, directory)


def _size(parameter: torch.nn.Parameter) -> int:
    """Number of elements of a parameter, also if ZeRO-3 has partitioned it."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
