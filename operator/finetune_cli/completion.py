"""``finetune completion``: shell completion of commands, options and the names of local jobs."""

from __future__ import annotations

import os

PROGRAM = "finetune"
VARIABLE = "_FINETUNE_COMPLETE"
"""Environment variable with which the script of the shell asks for completions."""


def script(shell: str) -> str:
    """The completion script for a shell."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    text: str = get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell)
    # fish would complete no manifests.
    return text.replace(" --no-files", "")


def is_asked() -> bool:
    """Whether a shell asks for completions."""
    return VARIABLE in os.environ


def prepare() -> None:
    """Let typer answer in the form that its scripts expect."""
    from typer.completion import completion_init  # type: ignore[attr-defined]

    completion_init()


def job_names(incomplete: str) -> list[str]:
    """The names of the jobs on this machine that begin with ``incomplete``."""
    from finetune_cli.local import home

    found = {path.parent.name.partition(".")[0] for path in home().glob("*/*/job.json")}
    return sorted(name for name in found if name.startswith(incomplete))
