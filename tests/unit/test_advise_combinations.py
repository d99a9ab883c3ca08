"""``finetune advise`` allows what docs/combinations.md says is not refused at admission, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.tables.tasks import TaskType
from finetune_cli.advise.candidates import candidates
from tests.builders import a_job
from tests.combinations.cells import LABEL_LISTS, TRAINED, Cell, Form, forms
from tests.combinations.results import Outcome, read_results


def spec_of(form: Form) -> dict[str, Any]:
    task: dict[str, Any] = {"type": form.task}
    if form.task is TaskType.TRANSLATION:
        task |= {"sourceLanguage": "en", "targetLanguage": "de"}
    if form.variant == LABEL_LISTS:
        task["multiLabel"] = True
    preference = {"preference": {"loss": form.variant}} if form.task is TaskType.PREFERENCE_TUNING else {}
    return {"task": task, "method": preference}


@pytest.mark.parametrize("form", list(forms()), ids=lambda form: f"{form}:{form.family}")
def test_what_is_refused_at_admission_is_not_possible(form: Form) -> None:
    results = read_results()
    found = {
        Cell(form, one.method, one.quantization).name: one.spec is None
        for one in candidates(a_job(**spec_of(form)).spec, {})
        if one.method in TRAINED
    }
    assert len(found) == len(TRAINED) * 3
    assert found == {name: results[name].outcome is Outcome.ADMISSION for name in found}
