"""The example of `make cluster`: the quickstart, with model and data in object storage."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.cluster.layout import RUN
from tests.cluster.machine import run
from tests.cluster.services import BUCKETS
from tests.cluster.tenant import OUTPUT, Tenant

_EXAMPLES = Path(__file__).parents[2] / "examples"
TEAM, BUCKET, SECRET = "team-a", "examples", "s3"
_BESIDE = "file://./"


def provide() -> Path:
    """Create a namespace with a Secret, and upload the quickstart's inputs; return the path of the manifest."""
    with tempfile.TemporaryDirectory() as made:
        run(sys.executable, _EXAMPLES / "make_inputs.py", "quickstart", "--into", made)
        # Copy, because the model is a symbolic link, which object storage does not have.
        shutil.copytree(made, BUCKETS / BUCKET)
    (BUCKETS / OUTPUT).mkdir(exist_ok=True)
    Tenant(TEAM).create()
    yaml = YAML()
    document = yaml.load(_EXAMPLES / "quickstart.yaml")
    document["metadata"]["namespace"] = TEAM
    _with_storage(document["spec"])
    manifest = RUN / "quickstart.yaml"
    yaml.dump(document, manifest)
    return manifest


def _with_storage(node: Any) -> None:
    """Replace every ``file://./`` address with one in object storage, and add the Secret."""
    if not isinstance(node, dict):
        return
    uri = node.get("uri", "")
    if uri.startswith(_BESIDE):
        path = uri.removeprefix(_BESIDE)
        node["uri"] = f"s3://{OUTPUT}" if path == "output" else f"s3://{BUCKET}/{path}"
        node["secretRef"] = {"name": SECRET}
    for inner in node.values():
        _with_storage(inner)
