"""Credentials from a job's ``secretRef``, each for one address only, on top of those of the environment.

The operator injects a Secret as environment variables with a prefix per role, such as training data or output
(`finetune_api.secrets`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from finetune_api.secrets import SecretRole, addresses
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.storage.location import without_wildcards

_HUB_PREFIX = "HF_"

_variables_by_uri: dict[str, dict[str, str]] = {}


def use_secrets(spec: FineTuneJobSpec, environment: Mapping[str, str]) -> None:
    """Use the Secret of each address of ``spec`` for all later storage calls of this process.

    huggingface_hub reads its settings from the environment, so ``HF_*`` variables of the model's Secret are set there.

    Args:
        spec: The job's spec, which names the addresses.
        environment: Environment variables, with those of the Secrets under their prefixes.
    """
    _variables_by_uri.clear()
    for role, uri in addresses(spec).items():
        variables = _variables(role, environment)
        if variables:
            _variables_by_uri[without_wildcards(uri).rstrip("/")] = variables
    hub = _variables(SecretRole.MODEL, environment)
    os.environ.update({name: value for name, value in hub.items() if name.startswith(_HUB_PREFIX)})


def variables_for(uri: str) -> dict[str, str]:
    """Variables that override the environment for ``uri``: those of the longest address that contains it."""
    parents = [parent for parent in _variables_by_uri if uri == parent or uri.startswith(f"{parent}/")]
    return _variables_by_uri[max(parents, key=len)] if parents else {}


def _variables(role: SecretRole, environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name.removeprefix(role.prefix): value for name, value in environment.items() if name.startswith(role.prefix)
    }
