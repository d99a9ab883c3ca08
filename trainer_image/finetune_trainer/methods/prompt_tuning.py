"""PromptTuning: learned embeddings before each text (Lester et al. 2021), with PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, PromptTuningSpec
from finetune_trainer.methods.base import Attachment, InitialTokens
from finetune_trainer.methods.trained_prompts import TrainedPrompt

if TYPE_CHECKING:
    from finetune_trainer.modelling.loading import LoadedModel

_FIELD = "method.promptTuning.initText"


class PromptTuning(TrainedPrompt):
    """PromptTuning; implements `finetune_trainer.methods.base.Method`."""

    form = "A soft prompt"
    tags = ("prompt-tuning",)

    def configure(self, settings: dict[str, Any]) -> Any:
        from peft import PromptTuningConfig

        return PromptTuningConfig(**settings)

    def attach(self, loaded: LoadedModel, attachment: Attachment) -> Any:
        model = super().attach(loaded, attachment)
        if not attachment.trial and attachment.adapter is None:
            _start_from(model, attachment.initial_tokens)
        return model

    def initial_tokens(self, spec: FineTuneJobSpec, tokenizer: Any) -> InitialTokens:
        settings = _settings(spec)
        if settings.init_text is None:
            return InitialTokens()
        tokens = tokenizer(settings.init_text, add_special_tokens=False)["input_ids"]
        if not tokens:
            raise StageFailure(
                Reason.BAD_CONFIGURATION, f"{_FIELD} has no tokens in the tokenizer of {spec.model.uri}: write words"
            )
        return initial_tokens(tokens, settings.virtual_tokens, tokenizer.unk_token_id)

    def describe(self, spec: FineTuneJobSpec) -> Sequence[tuple[str, str]]:
        shown = super().describe(spec)
        if spec.model.adapter is not None:  # The virtual tokens start as those of the adapter.
            return shown
        text = _settings(spec).init_text
        return [*shown, ("Initial text", "random tokens" if text is None else text)]


def _start_from(model: Any, tokens: Sequence[int]) -> None:
    """Give virtual tokens the embeddings of ``tokens``, or of random ones if there are none.

    PEFT's own initialisation from a text begins with the start token of the tokenizer. Its random embeddings are much
    larger than those of a model.
    """
    import torch

    weight, known = model.prompt_encoder[model.active_adapter].embedding.weight, model.word_embeddings.weight
    ids = torch.tensor(tokens) if tokens else torch.randint(len(known), (len(weight),))
    with torch.no_grad():
        weight.copy_(model.word_embeddings(ids.to(known.device)))


def initial_tokens(tokens: Sequence[int], virtual_tokens: int, unknown: int | None) -> InitialTokens:
    """The ``tokens`` of the text, cut or repeated to ``virtual_tokens``; ``unknown`` is the unknown token."""
    notes = []
    if len(tokens) > virtual_tokens:
        notes.append(
            f"{_FIELD} has {len(tokens)} tokens, of which the virtual tokens start from the first {virtual_tokens}: "
            "raise virtualTokens to use all"
        )
    elif len(tokens) < virtual_tokens:
        notes.append(f"{_FIELD} has {len(tokens)} tokens, which are repeated for {virtual_tokens} virtual tokens")
    if unknown is not None and unknown in tokens:
        notes.append(f"{_FIELD} has {tokens.count(unknown)} tokens that are unknown to the tokenizer of the model")
    return InitialTokens(tuple(islice(cycle(tokens), virtual_tokens)), tuple(notes))


def _settings(spec: FineTuneJobSpec) -> PromptTuningSpec:
    settings = spec.method.settings
    assert isinstance(settings, PromptTuningSpec)
    return settings


method = PromptTuning()
