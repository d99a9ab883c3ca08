"""Changes to lm-eval: no code in templates or from the hub, and no progress bars."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm

VERSION = "0.4.13"
"""The version that the changes were checked with."""


class HubCodeError(Exception):
    """A metric would run Python code of the hub."""


def secure() -> None:
    """Let the templates of tasks access no Python objects, and download no metrics; may be called several times.

    In lm-eval's own environment a template can run any code. Source: env in lm_eval/utils.py. A metric that lm-eval
    does not know would be code of the hub. Source: get_metric in lm_eval/api/registry.py.
    """
    import datasets
    import evaluate
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils
    from lm_eval.api import task

    if not isinstance(utils.env, SandboxedEnvironment):
        sandboxed = SandboxedEnvironment(undefined=utils.env.undefined, keep_trailing_newline=True)
        sandboxed.filters |= utils.env.filters
        utils.env = sandboxed
    evaluate.load = _refuse
    datasets.disable_progress_bars()
    task.tqdm = _NoBar


def without_bars() -> None:
    """Let models show no progress bars either; imports torch."""
    from lm_eval.api import model
    from lm_eval.models import huggingface

    model.tqdm = huggingface.tqdm = _NoBar


class _NoBar(tqdm):  # type: ignore[misc]
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named | {"disable": True})


def _refuse(name: str, *_: Any, **__: Any) -> Any:
    raise HubCodeError(name)
