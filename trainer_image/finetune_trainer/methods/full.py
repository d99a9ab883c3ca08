"""Full fine-tuning: all weights are trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.layout import MODEL_CONFIG
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.methods.adapters import require
from finetune_trainer.methods.base import Attachment, Loader, MethodDefaults

if TYPE_CHECKING:
    from finetune_trainer.methods.coverage import Coverage
    from finetune_trainer.modelling.loading import LoadedModel


class Full(MethodDefaults):
    """Full fine-tuning; implements `finetune_trainer.methods.base.Method`."""

    trains_base = True
    form = "A fully fine-tuned model"
    tags = ()

    def attach(self, loaded: LoadedModel, attachment: Attachment) -> Any:
        from finetune_trainer.modelling.modalities import other_modalities

        # They would get no gradient, but weight decay would change them.
        for name in other_modalities(loaded.model):
            loaded.model.get_submodule(name).requires_grad_(False)
        return loaded.model

    def tuned(self, load: Loader, base: Path, trained: Path) -> Any:
        require(trained, MODEL_CONFIG)
        return load(trained).complete()

    def baseline_and_tuned(self, load: Loader, base: Path, trained: Path) -> Iterator[tuple[str, Any]]:
        require(trained, MODEL_CONFIG)
        yield "baseline", load(base).complete()
        yield "tuned", load(trained).complete()

    def coverage(self, model: Any) -> Coverage | None:
        return None

    def describe(self, spec: FineTuneJobSpec) -> Sequence[tuple[str, str]]:
        return ()


method = Full()
