"""The CustomResourceDefinition in the chart."""

from __future__ import annotations

import yaml

from tests.chart.helm import CHART, ROOT, of_kind, the

NAME = "finetunejobs.finetune.dev.yaml"
SOURCE = (ROOT / "crds" / NAME).read_text()
DEFINITION = "CustomResourceDefinition"


def test_the_charts_copy_is_the_generated_one() -> None:
    # Helm packages nothing that lies outside of the chart.
    assert (CHART / "files" / NAME).read_text() == SOURCE, "out of date: make crds"


def test_it_is_installed_as_generated_and_kept_when_the_release_goes() -> None:
    definition = yaml.safe_load(SOURCE)
    assert the(DEFINITION, "crds.keep=false") == definition
    definition["metadata"]["annotations"] = {"helm.sh/resource-policy": "keep"}
    assert the(DEFINITION) == definition


def test_somebody_else_may_install_it() -> None:
    assert not of_kind(DEFINITION, "crds.install=false")
