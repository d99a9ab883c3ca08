"""Continues from a published adapter: the same adapter, with its weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from finetune_api.failures import Reason, StageFailure
from finetune_api.layout import ADAPTER_WEIGHTS
from finetune_trainer.methods.adapters import attached, prefix_of
from finetune_trainer.methods.base import Attachment

if TYPE_CHECKING:
    from finetune_trainer.modelling.loading import LoadedModel


def from_adapter(loaded: LoadedModel, attachment: Attachment, settings: Mapping[str, Any]) -> Any:
    """Attach the adapter in ``attachment.adapter``, and fill it with its weights, to be trained.

    Args:
        loaded: The base model.
        attachment: The inputs of `finetune_trainer.methods.base.Method.attach`.
        settings: Fields of the PEFT configuration that differ from those of the adapter.

    Returns:
        A PeftModel with one adapter. In a trial it has no weights.

    Raises:
        StageFailure: BadConfiguration when the tensors of the adapter are not those of its settings on this model.
    """
    from peft import PeftConfig, set_peft_model_state_dict
    from safetensors import safe_open
    from safetensors.torch import load_file

    assert attachment.adapter is not None
    # Without the name of the base model that it had: the weights decide, and PEFT warns about another name.
    changed = {"base_model_name_or_path": None, "revision": None, "inference_mode": False, **settings}
    config: Any = PeftConfig.from_pretrained(str(attachment.adapter))
    for name, value in changed.items():
        setattr(config, name, value)
    model = attached(loaded.model, config, "model.adapter")
    file = attachment.adapter / ADAPTER_WEIGHTS
    with safe_open(file, framework="pt") as stored:
        shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    _check(_shapes(model), shapes, [prefix_of(model) + name for name in loaded.random])
    if not attachment.trial:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with _whole(parameters):
            set_peft_model_state_dict(model, load_file(file))
    return model


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of the adapter, also if ZeRO-3 has partitioned it."""
    from peft import get_peft_model_state_dict

    whole = {name: tuple(getattr(one, "ds_shape", one.shape)) for name, one in model.named_parameters()}
    state = {name: one for name, one in model.state_dict(keep_vars=True).items() if name in whole}
    with _inference(model):
        named = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
    return {name: tuple(getattr(one, "ds_shape", one.shape)) for name, one in named.items()}


@contextmanager
def _inference(model: Any) -> Iterator[None]:
    """Context in which PEFT names virtual tokens as they are stored, and does not compute them.

    It would copy them to the CPU, which is impossible for a model without weights.
    """
    config = model.active_peft_config
    config.inference_mode = True
    try:
        yield
    finally:
        config.inference_mode = False


def _check(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], random: Collection[str]
) -> None:
    """Check that the adapter has every tensor, and all that the base model has at ``random``."""
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if different:
        name = different[0]
        shapes = (f"{one[name]}" if name in one else "absent" for one in (found, expected))
        of_adapter, of_model = shapes
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"model.adapter does not fit the base model: {len(different)} of its tensors differ, such as {name}, which "
            f"is {of_adapter} in the adapter and {of_model} in the model; name another adapter",
        )
    absent = sorted(set(random) - found.keys())
    if absent:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"model.adapter lacks {absent[0]}, which the base model does not have either: it was trained for another "
            "task; name another adapter",
        )


def _whole(parameters: list[Any]) -> AbstractContextManager[Any]:
    """Context in which parameters that ZeRO-3 has partitioned are whole, and are changed on all processes."""
    partitioned = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not partitioned:
        return nullcontext()
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(partitioned, modifier_rank=0)
    return context
