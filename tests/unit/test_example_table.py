"""The table of the examples in README.md."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import make_inputs
import run_all
from finetune_api.tables.tasks import TaskType

PAGE = f"Before.\n{run_all.BEGIN}\nold\n{run_all.END}\nAfter.\n"


def manifests() -> dict[str, Any]:
    """The manifests of all examples, by name."""
    return {name: yaml.safe_load((run_all.FOLDER / f"{name}.yaml").read_text()) for name in run_all.names()}


def test_the_table_names_every_manifest_with_its_task() -> None:
    written = run_all.README.read_text().partition(run_all.BEGIN)[2].partition(run_all.END)[0]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in written.strip().splitlines()[2:]]
    assert {row[0]: row[1] for row in rows} == {
        f"[{name}](examples/{name}.yaml)": manifest["spec"]["task"]["type"] for name, manifest in manifests().items()
    }


def test_every_manifest_has_inputs_of_its_name() -> None:
    assert set(run_all.names()) <= set(make_inputs.EXAMPLES)


def test_every_task_has_an_example() -> None:
    assert {manifest["spec"]["task"]["type"] for manifest in manifests().values()} == set(TaskType)


def test_a_result_is_a_row_of_the_table() -> None:
    spec = {
        "task": {"type": "Translation"},
        "model": {"uri": "file:///here/models/small"},
        "method": {"type": "Full"},
    }
    metric = {"name": "chrf", "baseline": 20.04, "tuned": 9.5, "interval": [-12.34, 0.06]}
    written = run_all.table([run_all.Result("x", {"spec": spec}, metric, 61.6)])
    assert written.splitlines()[2] == (
        "| [x](examples/x.yaml) | Translation | small | Full | chrf | 20.0 | 9.5 | -12.3 … +0.1 | 62 |"
    )


def test_only_what_is_between_the_marks_is_replaced() -> None:
    page = run_all.replaced(PAGE, "new\n")
    assert page == PAGE.replace("old", "new")
    assert run_all.replaced(page, "new\n") == page


@pytest.mark.parametrize("page", ["", PAGE.replace(run_all.BEGIN, ""), PAGE.replace(run_all.END, "")])
def test_a_page_without_the_marks_is_refused(page: str) -> None:
    with pytest.raises(SystemExit, match=r"README\.md lacks the line"):
        run_all.replaced(page, "new")
