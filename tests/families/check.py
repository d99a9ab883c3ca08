"""Tries one model type with the code of the product: its collators, loading, methods and evaluation.

`examine` never raises for a model that fails; the result says which check failed and how.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from transformers import AutoModel
from transformers.pytorch_utils import Conv1D

from finetune_api.spec import FineTuneJobSpec, Precision
from finetune_trainer.context import Reporter
from finetune_trainer.evaluate.comparison import ExampleCounter
from finetune_trainer.methods import method_of
from finetune_trainer.modelling.batching import BatchLimits, TokenRows, padded
from finetune_trainer.modelling.loading import load, set_padding
from finetune_trainer.modelling.modalities import other_modalities
from finetune_trainer.modelling.outputs import logits_of
from finetune_trainer.modelling.precision import Hardware
from finetune_trainer.prepared import DataReport, ModelHandling
from finetune_trainer.tasks import form_of
from finetune_trainer.tasks.text_classification.evaluation import mean_features
from finetune_trainer.train.causal import CausalCollator, CausalDataset
from finetune_trainer.train.data import TrainingDataset
from finetune_trainer.train.model import load_model
from tests.families.compare import Wrong, distance, require_close, sees_the_future
from tests.families.finding import Finding, recorded
from tests.families.inputs import (
    AUTO_CLASSES,
    FAMILIES,
    ROW_LENGTH,
    TASKS,
    data_report,
    examples,
    job_spec,
    learned_tokens,
    loss_sum,
)
from tests.families.tiny import BOS, LABELS, PAD, VOCABULARY, build, config_of, variants_of
from tests.families.virtual import VirtualChecks

_NEW_TOKENS = 4
_ROUNDING = 1e-5
"""Largest difference of equal logits, relative to their standard deviation."""
_CPU = Hardware(torch.device("cpu"), torch.float32)


def examine(model_type: str, task: str, directory: Path) -> Finding:
    """Try a model type, in all its variants.

    Args:
        model_type: Such as ``llama``.
        task: PEFT task type, such as CAUSAL_LM.
        directory: An empty directory for models.
    """
    finding = Finding()
    for number, variant in enumerate(variants_of(model_type)):
        _examine(finding, partial(config_of, model_type, task, variant), task, directory / str(number))
    return finding


def _examine(finding: Finding, config: Any, task: str, directory: Path) -> None:
    base = directory / "base"
    with recorded(finding, "build"):
        model = build(config(), AUTO_CLASSES[task])
        finding.model_class = type(model).__name__
        model.save_pretrained(base)
        del model
    if finding.checks["build"]:
        return
    with recorded(finding, "load"):
        finding.attention = load(AUTO_CLASSES[task], base, torch.float32, "base").model.config._attn_implementation
    if not finding.checks["load"]:
        examination_of(task)(base, directory, task, finding).run()


def examination_of(task: str) -> type[Examination]:
    """The examination of models for a PEFT task type."""
    if task == "SEQ_2_SEQ_LM":
        from tests.families.seq2seq import Seq2SeqExamination

        return Seq2SeqExamination
    return Examination


class Examination(VirtualChecks):
    """Tries one model; `checks` are those of encoders and decoders."""

    def __init__(self, base: Path, directory: Path, task: str, finding: Finding) -> None:
        self._base = base
        self._directory = directory
        self._peft_task = task
        self._task = form_of(TASKS[task], FAMILIES[task])
        self._finding = finding
        self._causal = task == "CAUSAL_LM"
        self._spans = task == "QUESTION_ANS"
        self._table = examples(task)
        self._rows = TokenRows.of_column(self._table["input_ids"])
        self._new_head = False

    def checks(self) -> dict[str, Callable[[], None]]:
        """The checks of the base model, by name."""
        if not self._causal:
            return {"batch": self._batch, "baseline": self._baseline}
        return {
            "causal": self._sees_only_the_past,
            "packing": self._packing,
            "batch": self._batch,
            "generates": self._generates,
            "generation": self._generation,
            "cache": self._cache,
        }

    def run(self) -> None:
        """Run all checks."""
        with recorded(self._finding, "runs"):
            self._logits(self._bare, [0])
        if self._finding.checks["runs"]:
            return
        if self._spans:
            with recorded(self._finding, "encodes"):
                self._encodes()
            if self._finding.checks["encodes"]:
                return
        for name, check in self.checks().items():
            with recorded(self._finding, name):
                check()
        with recorded(self._finding, "gradients"):
            self._survey()
        for method in ("LoRA", "Full"):
            with recorded(self._finding, method):
                self._train(method)
        failed = {name for name, problem in self._finding.checks.items() if problem}
        if failed <= {"packing", "batch", "generation"}:  # Otherwise the model is refused.
            self.run_virtual()

    def _report(self) -> DataReport:
        """The report of a job whose model has the limits that were found so far."""
        passed = {name for name, problem in self._finding.checks.items() if not problem}
        return data_report(
            self._peft_task,
            ModelHandling(
                model_class=self._finding.model_class,
                tested=True,
                packing="packing" in passed,
                batching="batch" in passed,
                batched_generation="generation" in passed,
                attention=self._finding.attention,
                untrained=tuple(self._finding.untrained),
                unused_parameters=False,
                new_head=self._peft_task == "SEQ_CLS",
            ),
        )

    def _load(self, **settings: Any) -> Any:
        return load(AUTO_CLASSES[self._peft_task], self._base, torch.float32, "base", **settings).model

    @cached_property
    def _bare(self) -> Any:
        """The base model, for checks that leave its weights as they are."""
        model = self._load()
        set_padding(model, PAD)
        model.config.use_cache = False  # As in training.
        return model

    def _logits(self, model: Any, rows: list[int]) -> list[torch.Tensor]:
        """The logits of each row, in a batch that the evaluation would make."""
        if self._spans:
            spans = self._of_features(model, [self._data[row] for row in rows])
            return [spans[line, :, : len(self._rows[row])] for line, row in enumerate(rows)]
        tokens, mask = padded(self._rows, np.asarray(rows), PAD)
        with torch.inference_mode():
            logits = model(input_ids=tokens, attention_mask=mask).logits
        return [logits[line, : len(self._rows[row])] if self._causal else logits[line] for line, row in enumerate(rows)]

    def _of_features(self, model: Any, rows: list[Any]) -> torch.Tensor:
        """The logits of rows of the dataset, in a batch that the training would make."""
        inputs = self._task.collator(PAD, model)(rows)
        del inputs["labels"]
        with torch.inference_mode():
            return logits_of(model(**inputs))

    @cached_property
    def _data(self) -> TrainingDataset:
        return self._task.dataset(self._table, job_spec(TASKS[self._peft_task], "Full"), self._report())

    def _alone(self, model: Any) -> list[torch.Tensor]:
        return [self._logits(model, [row])[0] for row in range(len(self._rows))]

    def _encodes(self) -> None:
        """The model is an encoder: its first logits depend on the last token, and it has no decoder."""
        if self._bare.config.is_encoder_decoder:
            raise Wrong("it has a decoder")
        row = self._data[0]
        changed = row | {"input_ids": row["input_ids"].copy()}
        changed["input_ids"][-2] = changed["input_ids"][-2] % (VOCABULARY - 3) + 3
        # Not those of the question, which BigBird replaces.
        before, after = (self._of_features(self._bare, [features])[0, :, 4:-2] for features in (row, changed))
        if distance(before, after) <= _ROUNDING:
            raise Wrong("a token does not see the tokens after it")

    def _batch(self) -> None:
        model = self._bare
        everything = list(range(len(self._rows)))
        require_close("in a padded batch", self._alone(model), self._logits(model, everything))

    def _sees_only_the_past(self) -> None:
        model = self._bare
        if hasattr(model.config, "is_decoder"):
            self._finding.needs_decoder = sees_the_future(self._load(is_decoder=False), self._rows[0])
        if sees_the_future(model, self._rows[0]):
            raise Wrong("a token sees the tokens after it")

    def _packing(self) -> None:
        model = self._bare
        alone, packed = (self._loss(model, CausalDataset(self._table, length)) for length in (None, ROW_LENGTH))
        if abs(alone - packed) > 2e-5 * abs(alone):
            raise Wrong(f"loss {packed:.5f} packed, {alone:.5f} not packed")

    def _loss(self, model: Any, data: CausalDataset) -> float:
        """Mean loss of all learned tokens: packed rows two at a time, other rows alone."""
        collate, total, count = CausalCollator(PAD), 0.0, 0
        size = 1 if len(data) == len(self._rows) else 2
        for start in range(0, len(data), size):
            batch = collate([data[row] for row in range(start, min(start + size, len(data)))])
            labels = batch.pop("labels")
            with torch.inference_mode():
                total += loss_sum(model(**batch).logits, labels)
            count += learned_tokens(labels)
        return total / count

    def _generates(self) -> None:
        self._generate([0])

    def _generation(self) -> None:
        rows = range(len(self._rows))
        alone = [self._generate([row])[0] for row in rows]
        require_close("generated in a padded batch", alone, self._generate(list(rows)))

    def _cache(self, model: Any = None) -> None:
        """Generation with the cache gives the logits of one pass over the whole text."""
        model = model or self._bare
        tokens, mask = padded(self._rows, np.asarray([0]), PAD, left=True)
        made = self._generated(tokens, mask, model)
        with torch.inference_mode():
            logits = model(input_ids=made.sequences, attention_mask=torch.ones_like(made.sequences)).logits
        steps = torch.stack(made.logits, dim=1)[0]
        require_close("generated with a cache", [logits[0, tokens.shape[1] - 1 : -1]], [steps])

    def _generate(self, rows: list[int]) -> list[torch.Tensor]:
        made = self._generated(*padded(self._rows, np.asarray(rows), PAD, left=True))
        return list(torch.stack(made.logits, dim=1))

    def _generated(self, tokens: torch.Tensor, mask: torch.Tensor, model: Any = None) -> Any:
        with torch.inference_mode():
            return (model or self._bare).generate(
                input_ids=tokens,
                attention_mask=mask,
                use_cache=True,
                do_sample=False,
                num_beams=1,
                max_new_tokens=_NEW_TOKENS,
                eos_token_id=None,
                forced_eos_token_id=None,
                suppress_tokens=[PAD, BOS],  # Some models give the padding token no position.
                pad_token_id=PAD,
                output_logits=True,
                return_dict_in_generate=True,
            )

    def _baseline(self) -> None:
        backbone = load(AutoModel, self._base, torch.float32, "base").model
        if self._spans:
            inputs = self._task.collator(PAD, backbone)([self._data[0]])
            del inputs["labels"]
            with torch.inference_mode():
                states = backbone(**inputs).last_hidden_state
            if states.shape[:2] != inputs["input_ids"].shape:
                raise Wrong(f"the hidden states have the shape {tuple(states.shape)}")
            return
        counter = ExampleCounter(Reporter(None), "features", len(self._rows))
        mean_features(backbone, self._rows, PAD, _CPU, counter, limits=BatchLimits(examples=1, tokens=4096))

    def _train(self, method: str) -> None:
        """Two steps, save, load without the product, the same outputs."""
        report = self._report()
        spec = job_spec(TASKS[self._peft_task], method)
        model = load_model(self._base, spec, report, task=self._task, precision=Precision.FP32)
        before = self._alone(model.eval())
        if method == "LoRA":
            self._check_targets(model)
        else:
            self._check_frozen(model)
        self._two_steps(model, report, spec)
        after = self._alone(model.eval())
        if all(torch.equal(old, new) for old, new in zip(before, after, strict=True)):
            raise Wrong("two steps change nothing")
        saved = self._directory / method
        model.save_pretrained(saved)
        require_close(f"after saving and loading {method}", after, self._alone(self._plainly_loaded(method, saved)))
        tuned = method_of(spec.method.type).tuned(self._loader(report), self._base, saved)
        require_close("as the evaluation loads it", after, self._alone(tuned))

    def _two_steps(self, model: Any, report: DataReport, spec: FineTuneJobSpec) -> None:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
        model.train()
        for _ in range(2):
            optimizer.zero_grad()
            self._backward(model, report, spec)
            if any(p.grad is not None and not torch.isfinite(p.grad).all() for p in model.parameters()):
                raise Wrong("a gradient is not finite")
            optimizer.step()
        if not spec.method.virtual_tokens:
            self._finding.unused |= any(p.requires_grad and p.grad is None for p in model.parameters())

    def _backward(self, model: Any, report: DataReport, spec: FineTuneJobSpec) -> None:
        data = self._task.dataset(self._table, spec, report)
        rows = list(range(min(2, len(data)))) if report.handling.batching else [0]
        batch = self._task.collator(PAD, model)([data[row] for row in rows])
        labels = batch.pop("labels")
        self._task.loss(logits_of(model(**batch)), labels, torch.tensor(labels.numel())).backward()

    def _survey(self) -> None:
        """Which parameters and linear layers of the base model get a gradient."""
        model = self._bare
        called = set()
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear | Conv1D):
                # Some layers only hold a weight that other code reads, which an adapter would not change.
                module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
        self._backward(model, self._report(), job_spec(TASKS[self._peft_task], "Full"))
        self._reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        output = model.get_output_embeddings()
        self._linear = {
            name: name in called and module.weight.grad is not None
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear | Conv1D) and module is not output
        }
        model.zero_grad()
        kinds = {_end(name) for name in self._linear}
        other = other_modalities(model)
        self._finding.untrained = sorted(
            kind
            for kind in kinds
            if not any(reached for name, reached in self._linear.items() if _end(name) == kind)
            and not all(name.startswith(other) for name in self._linear if _end(name) == kind)
        )

    def _plainly_loaded(self, method: str, saved: Path) -> Any:
        """The result, loaded with transformers and PEFT only, as the model card says."""
        settings: dict[str, Any] = {"num_labels": len(LABELS)} if self._peft_task == "SEQ_CLS" else {}
        auto_class = AUTO_CLASSES[self._peft_task]
        directory = saved if method == "Full" else self._base
        model = auto_class.from_pretrained(directory, dtype=torch.float32, **settings)
        model.config.get_text_config().pad_token_id = PAD
        return model.eval() if method == "Full" else PeftModel.from_pretrained(model, saved).eval()

    def _loader(self, report: DataReport) -> Any:
        chosen = self._task.model_class(report)

        def loader(directory: Path) -> Any:
            new_head = chosen.new_head and directory == self._base
            loaded = load(chosen.auto_class, directory, torch.float32, "model", new_head=new_head, **chosen.settings)
            set_padding(loaded.model, PAD)
            return loaded.placed(_CPU)

        return loader

    def _check_targets(self, model: Any) -> None:
        """Note the trained layers that all-linear leaves out. Adapters without a gradient are found in training."""
        prefix = "base_model.model."
        modules = [(name.removeprefix(prefix), module) for name, module in model.named_modules()]
        adapted = {name for name, module in modules if isinstance(module, BaseTunerLayer)}
        head = tuple(f"{name}." for name, module in modules if isinstance(module, ModulesToSaveWrapper))
        trained = {n for n, reached in self._linear.items() if reached and not f"{n}.".startswith(head)}
        experts = {_end(n) for n, p in self._bare.named_parameters() if p.dim() > 2 and "expert" in n}
        self._finding.frozen = sorted({_end(name) for name in trained - adapted} | experts)

    def _check_frozen(self, model: Any) -> None:
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        if wrong := sorted(frozen & self._reached):
            raise Wrong(f"{len(wrong)} parameters that text trains are frozen, such as {wrong[0]}")


def _end(name: str) -> str:
    """The last two parts of the name of a module."""
    return ".".join(name.split(".")[-2:])
