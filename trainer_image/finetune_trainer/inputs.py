"""``finetune_trainer inputs --config stage.json`` prints digests of a job's inputs: of the data and the base model,
and of the task files of ``evaluation.harnessPath``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from finetune_api.failures import ExitCode, StageFailure
from finetune_api.stage import StageConfig
from finetune_trainer.harness.files import fetch_tasks
from finetune_trainer.prepare.inputs import fetch_inputs
from finetune_trainer.storage.credentials import use_secrets


def main(arguments: list[str]) -> int:
    """Print ``inputsDigest`` and ``harnessDigest`` as JSON; an error is the last line of standard error.

    Returns the exit code.
    """
    parser = argparse.ArgumentParser(prog="finetune_trainer inputs", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="path of a stage.json")
    config = StageConfig.model_validate_json(parser.parse_args(arguments).config.read_bytes())
    use_secrets(config.spec, os.environ)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            digest = fetch_inputs(config.spec, Path(scratch)).digest
            files = fetch_tasks(harness, Path(scratch)) if (harness := config.spec.evaluation.harness_path) else None
    except StageFailure as failure:
        print(failure.message, file=sys.stderr)  # noqa: T201
        return failure.reason.exit_code
    print(json.dumps({"inputsDigest": digest, "harnessDigest": files and files.digest}))  # noqa: T201
    return ExitCode.DONE
