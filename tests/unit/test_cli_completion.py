"""Shell completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from finetune_cli.completion import script
from finetune_cli.main import app

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A machine with the program ``finetune``, and a local job."""
    job = tmp_path / "home" / "default" / "support-intents.0123456789" / "job.json"
    job.parent.mkdir(parents=True)
    job.write_text("{}")
    program = tmp_path / "bin" / "finetune"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m finetune_cli.main "$@"\n')
    program.chmod(0o755)
    return {
        **os.environ,
        "FINETUNE_HOME": str(tmp_path / "home"),
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "operator"),
    }


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("finetune hist", ["history"]),
        ("finetune run --dry", ["--dry-run"]),
        ("finetune completion ", ["bash", "zsh", "fish"]),
        ("finetune get --local su", ["support-intents"]),
        ("finetune get su", []),
    ],
)
def test_bash_completes_commands_options_and_local_jobs(
    environment: dict[str, str], words: str, completions: list[str]
) -> None:
    parts = words.split(" ")
    listed = " ".join(f"'{part}'" for part in parts)
    program = f"{script('bash')}\nCOMP_WORDS=({listed}); COMP_CWORD={len(parts) - 1}\n"
    program += '_finetune_completion finetune; printf "%s\\n" "${COMPREPLY[@]}"\n'
    ended = subprocess.run(["bash", "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert (ended.stdout.split(), ended.stderr) == (completions, "")


def test_zsh_and_fish_get_their_own_form(environment: dict[str, str]) -> None:
    assert "#compdef finetune" in script("zsh")
    assert "complete --command finetune" in script("fish")
    asked = {"_TYPER_COMPLETE_ARGS": "finetune hist", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    for shell in ("zsh", "fish"):
        ended = subprocess.run(
            ["finetune"],
            env={**environment, **asked, "_FINETUNE_COMPLETE": f"complete_{shell}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "history" in ended.stdout
        assert "get" not in ended.stdout.split()


def test_other_shells_are_refused() -> None:
    assert CliRunner().invoke(app, ["completion", "bash"]).stdout.startswith("_finetune_completion() {")
    assert CliRunner().invoke(app, ["completion", "tcsh"]).exit_code == 2
