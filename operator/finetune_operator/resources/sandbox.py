"""The container that runs generated programs beside a stage: a sidecar that Kubernetes starts before it and ends after.

It shares one volume with the stage, for a socket. It has no variables, no Secrets, no configuration of the job, and
processes and files of its own.
"""

from __future__ import annotations

from typing import Any

from finetune_core.names import SANDBOX
from finetune_operator.settings import TrainerSettings

_SOCKET_DIRECTORY = "/run/finetune-sandbox"
SOCKET = f"{_SOCKET_DIRECTORY}/socket"

_FOLDERS = "/programs"
_FOLDERS_SIZE = "20Gi"
"""More than four programs can occupy with files that they have deleted, see finetune_trainer.sandbox.limits: a pod
that exceeds it is evicted."""
_USER = 65533
"""Not that of the stage, so the processes of one cannot reach those of the other."""
_START_SECONDS = 300

MOUNT = {"name": "sandbox", "mountPath": _SOCKET_DIRECTORY}
"""The volume of the socket."""


def sandbox_volumes() -> list[dict[str, Any]]:
    return [
        {"name": "sandbox", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "programs", "emptyDir": {"sizeLimit": _FOLDERS_SIZE}},
    ]


def sandbox_container(settings: TrainerSettings, security: dict[str, Any]) -> dict[str, Any]:
    """The sidecar, with the security context of every container and a user of its own."""
    is_socket = "import os, stat, sys; sys.exit(not stat.S_ISSOCK(os.stat(sys.argv[1]).st_mode))"
    return {
        "name": SANDBOX,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "finetune_trainer.sandbox.server", SOCKET, _FOLDERS],
        "workingDir": _FOLDERS,
        # A sidecar: it starts before the stage, may start again, and does not keep the pod alive.
        "restartPolicy": "Always",
        "resources": settings.code_execution.resources,
        "securityContext": {**security, "runAsUser": _USER, "runAsGroup": _USER},
        "startupProbe": {
            "exec": {"command": ["python", "-S", "-c", is_socket, SOCKET]},
            "periodSeconds": 1,
            "timeoutSeconds": 10,
            "failureThreshold": _START_SECONDS,
        },
        "volumeMounts": [MOUNT, {"name": "programs", "mountPath": _FOLDERS}],
    }
