"""The command ``finetune advise``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from finetune_cli.options import Settings, TextOrJson, on_this_machine
from finetune_cli.output import Output

if TYPE_CHECKING:
    from finetune_cli.source import Document


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(advise)


def advise(
    manifest: Annotated[str, typer.Argument(metavar="MANIFEST", help="YAML file with a FineTuneJob, or - for stdin.")],
    *,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", metavar="NAMExCOUNT", help="GPUs to advise for, such as H100x8; default: this machine."),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--models",
            "--model",
            metavar="A,B,…",
            help="Also measure these base models on 200 validation rows; addresses or directories.",
        ),
    ] = None,
    tries: Annotated[
        int, typer.Option("--try", metavar="N", min=0, max=10, help="Train with the best N methods for 50 steps each.")
    ] = 0,
    output: TextOrJson = "text",
    settings: Settings = None,
) -> None:
    """Say which method suits a job, what each costs, and why.

    Checks the data, computes trained parameters and memory of each method, and recommends one. The manifest may omit
    spec.method. Stores nothing. Needs the extra `trainer`. Exit codes: as run.
    """
    from finetune_api.failures import ExitCode
    from finetune_cli.advise.advise import advise as execute
    from finetune_cli.advise.endpoint import with_search
    from finetune_cli.advise.hardware import named
    from finetune_cli.run import load_or_report

    if gpu is not None and tries:
        raise typer.BadParameter("not allowed with --gpu: it measures on this machine", param_hint="--try")
    suggested: tuple[str, ...] = ()

    def change(document: Document) -> Document:
        nonlocal suggested
        changed, suggested = with_search(document)
        return changed

    job = load_or_report(manifest, Output(output), settings or (), change)
    if job is None:
        raise typer.Exit(ExitCode.BAD_CONFIGURATION)
    try:
        hardware = named(gpu, job.spec) if gpu is not None else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--gpu") from error
    on_this_machine(
        lambda: execute(
            manifest,
            job,
            hardware,
            models=models or (),
            tries=tries,
            output=Output(output),
            suggested=suggested,
        ),
    )
