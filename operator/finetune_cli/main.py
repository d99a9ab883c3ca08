"""The ``finetune`` command. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from finetune_cli import commands
from finetune_cli.output import Output, program

app = typer.Typer(
    name="finetune",
    help="Fine-tune language models from FineTuneJob manifests, on this machine or on a cluster.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"finetune {version('finetune-operator')}")
        except PackageNotFoundError:
            typer.echo("finetune (not installed)")
        raise typer.Exit


@app.callback()
def finetune(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Fine-tune language models from FineTuneJob manifests, on this machine or on a cluster."""


@app.command()
def run(
    manifest: Annotated[str, typer.Argument(metavar="MANIFEST", help="YAML file with a FineTuneJob, or - for stdin.")],
    output: Annotated[
        Literal["text", "json"], typer.Option("-o", "--output", help="text for people, json for one JSON document.")
    ] = "text",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start a new revision even if this spec has been run before.")
    ] = False,
) -> None:
    """Run a FineTuneJob on this machine: prepare, train, evaluate, publish.

    Ctrl-C stops after a checkpoint; the same command resumes. State and logs lie in $FINETUNE_HOME, or
    ~/.local/state/finetune. Exit codes: 0 published, 1 refused by a gate, 64 bad manifest, 130 stopped, otherwise the
    code of the stage that failed.
    """
    from finetune_cli.run import run as carry_out

    raise typer.Exit(carry_out(manifest, Output(output), fresh))


@app.command()
def lint(
    paths: Annotated[
        list[str], typer.Argument(metavar="FILE|DIRECTORY", help="YAML files, directories of them, or - for stdin.")
    ],
    output: Annotated[
        Literal["text", "json"], typer.Option("-o", "--output", help="text for people, json for one JSON document.")
    ] = "text",
) -> None:
    """Check FineTuneJobs without a cluster: what the API server would refuse, with file and line.

    Objects of other kinds are skipped. Exit codes: 0 nothing is wrong, 64 something is.
    """
    from finetune_cli.lint import lint as carry_out

    raise typer.Exit(carry_out(paths, Output(output)))


commands.register(app)


def main() -> None:
    """Entry point of ``finetune`` and ``kubectl-finetune``."""
    app(prog_name=program())


if __name__ == "__main__":
    main()
