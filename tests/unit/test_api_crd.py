"""The generated CustomResourceDefinition: up to date, structural and bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api import crd
from tests.unit.api_cases import nodes

FILE = Path(__file__).parents[2] / "crds" / "finetunejobs.finetune.dev.yaml"
DEFINITION = crd.custom_resource_definition()
VERSION = DEFINITION["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]

KEYS = {
    "additionalProperties",
    "description",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "pattern",
    "properties",
    "required",
    "type",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-validations",
}


NODES = dict(nodes(SCHEMA))


def test_the_committed_crd_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.main(["--check", str(FILE)]) == 0, capsys.readouterr().err


def test_check_names_an_outdated_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.main(["--check", str(tmp_path / "old.yaml")]) == 1
    assert "old.yaml is out of date" in capsys.readouterr().err


def test_the_yaml_parses_to_the_definition(capsys: pytest.CaptureFixture[str]) -> None:
    from ruamel.yaml import YAML

    assert crd.main([]) == 0
    text = capsys.readouterr().out
    assert YAML(typ="safe").load(text) == DEFINITION
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_the_schema_is_structural_and_has_no_defaults() -> None:
    for path, node in NODES.items():
        assert set(node) <= KEYS, path
        assert isinstance(node["type"], str), path


def test_every_string_list_and_number_of_spec_and_status_is_bounded() -> None:
    for path, node in NODES.items():
        if path in {".apiVersion", ".kind"}:
            continue
        match node["type"]:
            case "string":
                assert "enum" in node or "maxLength" in node, path
            case "array":
                assert "maxItems" in node, path
            case "object":
                assert "properties" in node or "maxProperties" in node, path
            case "integer":
                assert node["format"] in {"int32", "int64"}, path
            case "number":
                assert node["format"] == "double", path


def test_every_integer_of_the_spec_has_both_bounds() -> None:
    for path, node in NODES.items():
        if path.startswith(".spec") and node["type"] == "integer":
            assert {"minimum", "maximum"} <= set(node), path


def test_every_field_is_described() -> None:
    for path, node in NODES.items():
        if path not in {"", ".metadata"} and not path.endswith("[]"):
            assert node["description"].endswith((".", "?")), path


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (".spec.training.schedule", "Default: Cosine."),
        (".spec.training.weightDecay", "Default: 0.01."),
        (".spec.training.compile", "Default: false."),
        (".spec.method.lora.targetModules", "Default: all-linear."),
        (
            ".spec.training.learningRate",
            "Default: 2e-5 for Full (2e-6 for PreferenceTuning), 2e-4 for LoRA (5e-4 for TextClassification, 5e-4 for "
            "QuestionAnswering, 5e-5 for PreferenceTuning), 3e-3 for IA3 (5e-4 for PreferenceTuning), 3e-2 for "
            "PromptTuning (1e-2 for TextClassification, 3e-3 for PreferenceTuning), 1e-2 for PrefixTuning (1e-3 for "
            "PreferenceTuning), 3e-3 for PTuning (3e-4 for PreferenceTuning).",
        ),
    ],
)
def test_a_description_states_the_default_once(path: str, text: str) -> None:
    description = NODES[path]["description"]
    assert description.endswith(text)
    assert description.count("Default:") == 1


def test_every_rule_has_the_path_of_a_field() -> None:
    objects = {path: node for path, node in NODES.items() if node["type"] == "object"}
    rules = [(path, rule) for path, node in objects.items() for rule in node.get("x-kubernetes-validations", ())]
    assert len(rules) > 15
    for path, rule in rules:
        assert set(rule) - {"messageExpression"} == {"rule", "message", "fieldPath"}
        assert rule.get("messageExpression", repr(rule["message"])).startswith(repr(rule["message"])[:-1])
        assert path + rule["fieldPath"] in NODES, (path, rule)


def test_fields_without_default_are_required() -> None:
    assert SCHEMA["required"] == ["spec"]
    assert NODES[".spec"]["required"] == ["model", "task", "dataset", "output"]
    assert "required" not in NODES[".spec.training"]


def test_exclusive_bounds_have_a_flag_as_in_openapi_3_0() -> None:
    rate = NODES[".spec.training.learningRate"]
    assert (rate["minimum"], rate["exclusiveMinimum"], rate["maximum"]) == (0, True, 1)


def test_lists_and_maps_in_status_are_atomic() -> None:
    assert NODES[".status"]["x-kubernetes-map-type"] == "atomic"
    types = {path: node.get("x-kubernetes-list-type") for path, node in NODES.items() if path.startswith(".status.")}
    for name in ("conditions", "stages", "history"):
        assert types[f".status.{name}"] == "atomic"


def test_labels_have_list_type_set() -> None:
    assert NODES[".spec.task.labels"]["x-kubernetes-list-type"] == "set"


def test_the_crd_has_names_and_printer_columns() -> None:
    names = DEFINITION["spec"]["names"]
    assert (names["plural"], names["shortNames"], names["categories"]) == ("finetunejobs", ["ftj"], ["finetune"])
    assert VERSION["subresources"] == {"status": {}}
    columns = {column["name"]: column for column in VERSION["additionalPrinterColumns"]}
    assert list(columns) == ["STATUS", "PROGRESS", "ETA", "BASELINE", "SCORE", "ARTIFACT", "AGE"]
    assert [name for name, column in columns.items() if column.get("priority")] == ["ARTIFACT"]
    for name in set(columns) - {"AGE"}:
        assert columns[name]["jsonPath"] in NODES
