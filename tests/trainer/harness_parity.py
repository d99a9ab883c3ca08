"""What lm-eval itself measures of a model, in a process of its own, as its users call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.trainer.harness_fixtures import LIBRARY
from tests.trainer.local_session import ROOT


def plain_results(request: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """The results of ``simple_evaluate`` by model and task.

    Args:
        request: ``models`` (arguments of lm-eval's model by name), ``tasks``, ``directory`` of the task files and
            ``chat``, whether the chat template is applied.
    """
    result = subprocess.run(
        [sys.executable, "-m", "tests.trainer.harness_parity"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), LIBRARY]), "HF_HUB_OFFLINE": "1"},
        cwd=request["directory"],  # lm-eval reads data files relative to the working directory.
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, dict[str, dict[str, float]]] = json.loads(result.stdout.splitlines()[-1])
    return found


def main() -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    request = json.load(sys.stdin)
    found = {}
    for name, arguments in request["models"].items():
        results: Any = simple_evaluate(
            model="hf",
            model_args=arguments | {"device": "cpu", "dtype": "float32"},
            device="cpu",
            batch_size=4,
            tasks=request["tasks"],
            task_manager=TaskManager(include_path=request["directory"], include_defaults=False),
            apply_chat_template=request["chat"],
            bootstrap_iters=0,
        )
        found[name] = results["results"]
    print(json.dumps(found, default=str))


if __name__ == "__main__":
    main()
