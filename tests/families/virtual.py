"""Tries a method with virtual tokens on a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from finetune_api.spec import FineTuneJobSpec, Precision
from finetune_trainer.methods import method_of
from finetune_trainer.modelling.batching import TokenRows
from finetune_trainer.modelling.outputs import logits_of
from finetune_trainer.prepared import DataReport
from finetune_trainer.tasks.base import TaskForm
from finetune_trainer.train.model import load_model
from tests.families.compare import Wrong, require_close
from tests.families.finding import Finding, recorded
from tests.families.inputs import TASKS, VIRTUAL, VIRTUAL_TOKENS, job_spec
from tests.families.tiny import PAD


class VirtualChecks:
    """The checks of methods with virtual tokens, for `tests.families.check.Examination`."""

    _base: Path
    _directory: Path
    _peft_task: str
    _task: TaskForm
    _finding: Finding
    _rows: TokenRows
    _causal: bool
    _spans: bool
    _data: Any
    _report: Callable[[], DataReport]
    _alone: Callable[[Any], list[torch.Tensor]]
    _logits: Callable[[Any, list[int]], list[torch.Tensor]]
    _two_steps: Callable[[Any, DataReport, FineTuneJobSpec], None]
    _plainly_loaded: Callable[[str, Path], Any]
    _loader: Callable[[DataReport], Any]
    _cache: Callable[[Any], None]
    _generated: Callable[..., Any]
    checks: Callable[[], dict[str, Any]]

    def run_virtual(self) -> None:
        """Try the methods with virtual tokens."""
        for method in VIRTUAL:
            with recorded(self._finding, method):
                self._virtual(method)

    def _virtual(self, method: str) -> None:
        """Rows alone as in a batch, two steps, save, load without the product, the same outputs and answers."""
        report, rows = self._report(), list(range(len(self._rows)))
        spec = job_spec(TASKS[self._peft_task], method)
        model = load_model(self._base, spec, report, task=self._task, precision=Precision.FP32).eval()
        before = self._alone(model)
        if report.handling.batching:
            require_close("in a padded batch", before, self._logits(model, rows))
        if method != "PrefixTuning":
            self._embeds(model)
        self._two_steps(model, report, spec)
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            # That of the bias of a span head is 0 up to rounding.
            if parameter.grad is None or (name.startswith("prompt_encoder") and not parameter.grad.any()):
                raise Wrong(f"training gives {name} no gradient")
        after = self._alone(model.eval())
        saved = self._directory / method
        model.save_pretrained(saved)
        plain = self._plainly_loaded("", saved)
        if method != "PrefixTuning" and (self._causal or self._spans):
            plain.register_forward_hook(_text_only)
        require_close(f"after saving and loading {method}", after, self._alone(plain))
        tuned = method_of(spec.method.type).tuned(self._loader(report), self._base, saved)
        require_close("as the evaluation loads it", after, self._alone(tuned))
        if "generates" in self.checks():
            self._cache(tuned)
            self._equally_long(tuned)

    def _equally_long(self, model: Any) -> None:
        """The answers to prompts of the same length are those to each alone."""
        prompts = torch.tensor([self._rows[row][:5].tolist() for row in (0, 1)])
        both, first = (
            torch.stack(self._generated(tokens, torch.ones_like(tokens), model).logits, dim=1)[0]
            for tokens in (prompts, prompts[:1])
        )
        require_close("generated in a batch of the same length", [first], [both])

    def _embeds(self, model: Any) -> None:
        """PEFT embeds a text as the model does."""
        base = model.get_base_model()
        inputs = self._inputs_of(base)
        embedded = {**inputs, "inputs_embeds": model.word_embeddings(inputs["input_ids"])}
        del embedded["input_ids"]
        with torch.inference_mode():
            require_close("with PEFT's embeddings", [logits_of(base(**inputs))], [logits_of(base(**embedded))])

    def _inputs_of(self, model: Any) -> dict[str, torch.Tensor]:
        """A row as training gives it to ``model``."""
        inputs = self._task.collator(PAD, model)([self._data[0]])
        del inputs["labels"]
        return inputs


def _text_only(_: Any, __: Any, outputs: Any) -> Any:
    """A forward hook for plain PEFT: drops the places of the virtual tokens."""
    for name in ("logits", "start_logits", "end_logits"):
        if getattr(outputs, name, None) is not None:
            outputs[name] = outputs[name][:, VIRTUAL_TOKENS:]
    return outputs
