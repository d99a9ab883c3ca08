"""The tables and the plugins of their members."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import pytest

from finetune_api import support
from finetune_api.tables.exports import Export
from finetune_api.tables.methods import MethodType
from finetune_api.tables.table import table
from finetune_api.tables.tasks import TaskType
from finetune_trainer.exports import export_of
from finetune_trainer.methods import method_of
from finetune_trainer.registry import Registry, members
from finetune_trainer.tasks import task_of
from finetune_trainer.tasks.base import TaskForm

DOCS = Path(__file__).parents[2] / "docs"


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Bright:
    """A protocol."""

    shade: int

    def shine(self) -> None: ...


def test_a_member_without_a_row_is_an_import_error() -> None:
    with pytest.raises(ImportError, match=r"Colour\.BLUE has no row"):
        table(Colour, {Colour.RED: 1})


def test_rows_cannot_be_changed() -> None:
    rows = table(Colour, {Colour.BLUE: 2, Colour.RED: 1})
    assert list(rows) == list(Colour)
    with pytest.raises(TypeError):
        rows[Colour.RED] = 3  # type: ignore[index]


@pytest.mark.parametrize("task", TaskType)
def test_every_task_has_a_whole_plugin(task: TaskType) -> None:
    forms = task_of(task).forms
    assert set(forms) == {family for method in MethodType for family in method.row.known_families(task)}
    for form in forms.values():
        assert [name for name in sorted(members(TaskForm)) if not hasattr(form, name)] == []


@pytest.mark.parametrize("method", MethodType)
def test_every_method_has_a_whole_plugin(method: MethodType) -> None:
    assert method_of(method).form


@pytest.mark.parametrize("export", Export)
def test_every_export_has_a_whole_plugin(export: Export) -> None:
    assert export_of(export).library


def test_a_protocol_has_its_methods_and_attributes_as_members() -> None:
    assert members(Bright) == {"shade", "shine"}


def test_a_plugin_that_lacks_members_is_named_with_them() -> None:
    registry: Registry[object] = Registry(Bright, "finetune_trainer.methods", "method")
    with pytest.raises(TypeError, match=r"finetune_trainer\.methods\.lora:method lacks shade, shine, which .*Bright"):
        registry(MethodType.LORA)


def test_a_member_without_a_plugin_is_named() -> None:
    registry: Registry[object] = Registry(Bright, "finetune_trainer.methods", "method")
    with pytest.raises(ImportError, match=r"Colour blue has no plugin: finetune_trainer\.methods\.blue:method"):
        registry(Colour.BLUE)


def test_the_support_matrix_and_the_table_of_reasons_are_up_to_date() -> None:
    assert support.main(["--check", str(DOCS / "support.md")]) == 0
    assert support.reasons() in (DOCS / "status.md").read_text()
