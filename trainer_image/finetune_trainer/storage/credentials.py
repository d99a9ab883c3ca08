"""Credentials that a job names for one of its addresses, beside those of the whole environment.

A Secret of the job is there as variables with a prefix that says what it is for (`finetune_api.secrets`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from finetune_api.secrets import SecretRole, addresses
from finetune_api.spec import FineTuneJobSpec

_HUB_PREFIX = "HF_"

_given: dict[str, dict[str, str]] = {}


def use_secrets(spec: FineTuneJobSpec, environment: Mapping[str, str]) -> None:
    """Have each address of ``spec`` reached with the Secret that is given for it, in this process.

    A model of the hub is fetched by a library that reads its token from the environment, so that goes there.
    """
    _given.clear()
    for role, uri in addresses(spec).items():
        variables = _variables(role, environment)
        if variables:
            _given[uri.rstrip("/")] = variables
    hub = _variables(SecretRole.MODEL, environment)
    os.environ.update({name: value for name, value in hub.items() if name.startswith(_HUB_PREFIX)})


def variables_for(uri: str) -> dict[str, str]:
    """The variables that hold for ``uri`` and what lies below it, on top of the environment's."""
    above = [given for given in _given if uri == given or uri.startswith(f"{given}/")]
    return _given[max(above, key=len)] if above else {}


def _variables(role: SecretRole, environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name.removeprefix(role.prefix): value for name, value in environment.items() if name.startswith(role.prefix)
    }
