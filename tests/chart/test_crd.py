"""The CustomResourceDefinition in the chart."""

from __future__ import annotations

import yaml

from tests.chart.helm import CHART, ROOT, of_kind, the

NAME = "finetunejobs.finetune.dev.yaml"
SOURCE = (ROOT / "crds" / NAME).read_text()
DEFINITION = "CustomResourceDefinition"


def test_the_copy_in_the_chart_equals_the_generated_crd() -> None:
    # Helm packages only files inside the chart, so the chart has a copy.
    assert (CHART / "files" / NAME).read_text() == SOURCE, "out of date, run: make crds"


def test_the_crd_is_installed_as_generated_and_kept_on_uninstall() -> None:
    definition = yaml.safe_load(SOURCE)
    assert the(DEFINITION, "crds.keep=false") == definition
    definition["metadata"]["annotations"] = {"helm.sh/resource-policy": "keep"}
    assert the(DEFINITION) == definition


def test_the_crd_can_be_left_out_of_the_release() -> None:
    assert not of_kind(DEFINITION, "crds.install=false")
