"""Common part of the methods that train virtual tokens, which stand before each text.

The logits of such a model have the places of the text only, as those of any other model, so that training and
evaluation need not know about virtual tokens. Plain PEFT leaves the places of the virtual tokens in.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic.alias_generators import to_camel

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.exceptions import first_line
from finetune_trainer.methods.adapters import AdapterMethod, attached
from finetune_trainer.methods.base import Attachment, Loader

if TYPE_CHECKING:
    from finetune_trainer.methods.coverage import Coverage
    from finetune_trainer.modelling.loading import LoadedModel


class PromptMethod(AdapterMethod):
    """A method with virtual tokens; `configure` says which."""

    embeds = True
    """Whether virtual tokens are embeddings, and so have places in the logits."""

    @abstractmethod
    def configure(self, settings: dict[str, Any]) -> Any:
        """The PeftConfig with these ``settings``, which all methods with virtual tokens have."""

    def needs_trial(self, spec: FineTuneJobSpec) -> bool:
        # PEFT finds embeddings and sizes by the names of some types of models.
        return True

    def attach(self, loaded: LoadedModel, attachment: Attachment) -> Any:
        model, spec = loaded.model, attachment.spec
        settings = spec.method.type.row.settings
        assert settings is not None
        field = f"method.{to_camel(settings.field)}"
        sizes = {
            "num_virtual_tokens": spec.method.virtual_tokens,
            **(_sizes_of_embeddings(model) if self.embeds else _sizes_of_keys(model)),
        }
        if attachment.adapter is not None:
            from finetune_trainer.methods.continuing import from_adapter

            prompted = from_adapter(loaded, attachment, sizes)
        else:
            head = [_head_name(name) for name in attachment.head] or None
            config = self.configure({"task_type": attachment.adapter_task, "modules_to_save": head, **sizes})
            prompted = attached(model, config, field)
        if self.embeds:
            _check_embeddings(prompted, field)
        self._without_places(prompted)
        if attachment.trial:
            _try_forward(prompted, field)
        return prompted

    def tuned(self, load: Loader, base: Path, trained: Path) -> Any:
        return self._without_places(super().tuned(load, base, trained))

    def baseline_and_tuned(self, load: Loader, base: Path, trained: Path) -> Iterator[tuple[str, Any]]:
        """Yield the base model within the tuned one, and then the tuned one.

        PEFT's ``disable_adapter`` leaves the trained head on, and the virtual tokens in answers that a model with an
        encoder and a decoder generates.
        """
        model = self.tuned(load, base, trained)
        with _own_head(model):
            yield "baseline", model.get_base_model()
        yield "tuned", model

    def reference(self, model: Any, spec: FineTuneJobSpec) -> Any:
        # A new prompt changes the model before anything is trained.
        return model.get_base_model() if spec.model.adapter is None else model

    def coverage(self, model: Any) -> Coverage | None:
        return None  # It changes no weights.

    def logit_offset(self, spec: FineTuneJobSpec) -> int:
        return spec.method.virtual_tokens if self.embeds else 0

    def describe(self, spec: FineTuneJobSpec) -> Sequence[tuple[str, str]]:
        count = str(spec.method.virtual_tokens)
        generates = "; generate for prompts of one length at a time" if spec.task.type.row.generates else ""
        return [("Virtual tokens", f"{count}, which take positions before each text{generates}")]

    def _without_places(self, model: Any) -> Any:
        if self.embeds and model.active_peft_config.task_type in ("CAUSAL_LM", "QUESTION_ANS"):
            model.register_forward_hook(_drop_places, with_kwargs=True)
        return model


def _drop_places(_: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], outputs: Any) -> Any:
    """A forward hook: drop the first places of the logits, which are those of the virtual tokens."""
    places = (kwargs["input_ids"] if "input_ids" in kwargs else args[0]).shape[1]
    for name in ("logits", "start_logits", "end_logits"):
        if getattr(outputs, name, None) is not None:
            outputs[name] = outputs[name][:, -places:].contiguous()
    return outputs


def _head_name(name: str) -> str:
    """The name of a module of the head for PEFT, which also takes each module for it whose name ends alike."""
    return f"base_model.{name}" if "mlp_head".endswith(name) else name  # PTuning has an mlp_head.


def _sizes_of_embeddings(model: Any) -> dict[str, int]:
    """The sizes that PEFT needs for virtual tokens that are embeddings; it knows only some names of them."""
    config = model.config.get_text_config()
    return {
        "token_dim": _embeddings(model).weight.shape[-1],
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        # With 2, the default of a model with an encoder and a decoder, the second half would have no effect.
        "num_transformer_submodules": 1,
    }


def _sizes_of_keys(model: Any) -> dict[str, int]:
    """Likewise, for keys and values."""
    config = model.config.get_text_config()
    # Where the heads together are wider than the hidden states, as in T5.
    width = getattr(config, "d_kv", None)
    return {} if width is None else {"token_dim": width * config.num_attention_heads}


def _embeddings(model: Any) -> Any:
    """The embeddings of the text."""
    return (model.get_encoder() if model.config.is_encoder_decoder else model).get_input_embeddings()


def _check_embeddings(model: Any, field: str) -> None:
    """Check that PEFT embeds the text as the model does.

    Raises:
        StageFailure: BadConfiguration when it takes another module for the embeddings, or leaves out their scale.
    """
    base = model.get_base_model()
    found = model.word_embeddings
    scales = getattr(base.config.get_text_config(), "scale_embedding", False)
    if found.weight is not _embeddings(base).weight or (scales and not hasattr(found, "embed_scale")):
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{field} does not fit {type(base).__name__}: PEFT would not embed the text as the model does; use LoRA",
        )


def _try_forward(model: Any, field: str) -> None:
    """Run a model without weights on a text, if it can run without weights at all.

    Raises:
        StageFailure: BadConfiguration when it fails with virtual tokens only.
    """
    import torch

    base = model.get_base_model()
    tokens = torch.zeros((1, 2), dtype=torch.long, device="meta")
    inputs = {"input_ids": tokens}  # The values of a mask decide about the work of some models.
    if base.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens
    try:
        with torch.no_grad():
            base(**inputs)
    except Exception:  # Some models read values of tensors, which a model without weights has not.
        return
    try:
        with torch.no_grad():
            model(**inputs)
    except Exception as error:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{field} does not fit {type(base).__name__}: {first_line(error)}; use another method",
        ) from error


@contextmanager
def _own_head(model: Any) -> Iterator[None]:
    """Context in which the base model has the head that it was loaded with."""
    from peft.utils import ModulesToSaveWrapper

    heads = [module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]
    for head in heads:
        head.enable_adapters(False)
    try:
        yield
    finally:
        for head in heads:
            head.enable_adapters(True)
