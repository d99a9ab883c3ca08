"""The operator imports no synchronous Kubernetes client."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from finetune_kube.patches import kubernetes

IMPORTED = """
import sys
from finetune_kube.patches.kubernetes import without_synchronous_client
without_synchronous_client()
import finetune_operator.app
print(*[name for name in sys.modules if name.startswith("kubernetes.") and not name.startswith("kubernetes.aio")])
"""


def source(module: str) -> str:
    spec = find_spec(module)
    assert spec
    assert spec.origin
    return Path(spec.origin).read_text()


def test_the_change_was_checked_with_the_installed_version() -> None:
    assert version("kubernetes") == kubernetes.VERSION


def test_the_package_and_kopf_still_import_the_synchronous_client() -> None:
    assert "from . import client" in source("kubernetes")
    assert "from kubernetes.client import" in source("kopf._cogs.helpers.thirdparty")


def test_a_patched_process_imports_only_the_asynchronous_client() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["kubernetes.client"]
