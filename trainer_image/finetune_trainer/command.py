"""``finetune_trainer prepare|train|evaluate|publish --config stage.json``: run one stage and report its result."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pydantic import ValidationError

from finetune_api.failures import ExitCode
from finetune_api.stage import STAGES, StageConfig
from finetune_trainer.host.host import Host


def main(arguments: list[str] | None = None) -> int:
    """Run one stage.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="finetune_trainer", description=__doc__)
    parser.add_argument("stage", choices=[str(stage) for stage in STAGES])
    parser.add_argument("--config", type=Path, required=True, help="path of stage.json")
    parsed = parser.parse_args(arguments)
    try:
        config = StageConfig.model_validate_json(parsed.config.read_bytes())
    except OSError as error:
        print(f"finetune_trainer: cannot read {parsed.config}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return ExitCode.BAD_CONFIGURATION
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        print(f"finetune_trainer: {parsed.config} is not a valid StageConfig: {problems}", file=sys.stderr)  # noqa: T201
        return ExitCode.BAD_CONFIGURATION
    if config.stage != parsed.stage:
        print(f"finetune_trainer: {parsed.config} is for stage {config.stage}, not {parsed.stage}", file=sys.stderr)  # noqa: T201
        return ExitCode.BAD_CONFIGURATION
    return Host(config).run()
