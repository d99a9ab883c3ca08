"""Common part of the methods that publish the virtual tokens as they train them, so that training can continue."""

from __future__ import annotations

from pathlib import Path

from pydantic.alias_generators import to_camel

from finetune_api.method_settings import VirtualTokensSpec
from finetune_api.spec import FineTuneJobSpec, MethodSpec
from finetune_trainer.methods.adapters import check_same
from finetune_trainer.methods.prompts import PromptMethod


class TrainedPrompt(PromptMethod):
    """A method whose published virtual tokens are the trained parameters themselves."""

    def continued(self, spec: FineTuneJobSpec, origin: FineTuneJobSpec, adapter: Path) -> MethodSpec:
        """See `finetune_trainer.methods.base.Method.continued`. What the first training started from does not count."""
        settings = spec.method.type.row.settings
        assert settings is not None
        found, given = origin.method.settings, getattr(spec.method, settings.field)
        assert isinstance(found, VirtualTokensSpec)
        if given is not None:
            check_same(to_camel(settings.field), given, found, ("virtual_tokens",))
        kept = settings.model.model_validate({"virtualTokens": found.virtual_tokens})
        return spec.method.model_copy(update={settings.field: kept})
