"""Loading of manifests: every problem is reported at once, with file, line and remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from api_cases import nodes

from finetune_api.job import FineTuneJob
from finetune_api.spec import MethodType, Metric
from finetune_cli.fields import nearest
from finetune_cli.manifest import ADDRESSES, ManifestError, load, parse

HERE = Path("/home/me/jobs")

GOOD = """\
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata:
  name: intents
spec:
  model: {uri: "hf://owner/encoder"}
  task: {type: TextClassification}
  dataset:
    train: {uri: "s3://data/intents.jsonl"}
  training:
    learningRate: 2e-4
  output: {uri: "s3://adapters"}
"""


def parsed(text: str) -> FineTuneJob:
    return parse(text, "job.yaml", HERE)


def complaints(text: str) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        parsed(text)
    return [str(problem) for problem in caught.value.problems]


def with_spec(*lines: str) -> str:
    """The valid manifest with additional lines at its end, from line 13."""
    return GOOD + "".join(f"  {line}\n" for line in lines)


class TestValidManifest:
    def test_is_loaded(self) -> None:
        job = parsed(GOOD)
        assert (job.metadata.name, job.metadata.namespace) == ("intents", "default")

    @pytest.mark.parametrize("written", ["2e-4", "2E-4", "0.0002", "2.0e-04", "+2e-4"])
    def test_unquoted_numbers_are_numbers(self, written: str) -> None:
        assert parsed(GOOD.replace("2e-4", written)).spec.training.learning_rate == 0.0002

    @pytest.mark.parametrize("written", ["64", "64.0", "6.4e1", "0x40"])
    def test_whole_floats_are_integers_as_in_kubectl(self, written: str) -> None:
        assert parsed(GOOD.replace("learningRate: 2e-4", f"batchSize: {written}")).spec.training.batch_size == 64

    def test_numbers_are_numbers_under_yaml_1_1_too(self) -> None:
        assert parsed("%YAML 1.1\n---\n" + GOOD).spec.training.learning_rate == 0.0002

    @pytest.mark.parametrize("written", ["true", "yes", "on", "True"])
    def test_booleans_are_parsed_as_in_kubectl(self, written: str) -> None:
        assert parsed(GOOD.replace("learningRate: 2e-4", f"activationCheckpointing: {written}")).spec.training

    def test_anchors_and_merge_keys_are_supported(self) -> None:
        text = GOOD.replace(
            'train: {uri: "s3://data/intents.jsonl"}', 'train: &t {uri: "s3://x/y"}\n    test: {<<: *t}'
        )
        assert parsed(text).spec.dataset.test.uri == "s3://x/y"

    def test_status_is_ignored(self) -> None:
        assert parsed(GOOD + "status: {phase: Nonsense}\n").status.revision == 0

    def test_other_objects_in_the_file_are_ignored(self) -> None:
        other = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team-a}\n---\n"
        assert parsed(other + GOOD).metadata.name == "intents"

    def test_json_is_accepted(self) -> None:
        assert parsed(parsed(GOOD).model_dump_json(exclude_none=True, exclude={"status"})).metadata.name == "intents"

    def test_byte_order_mark_is_accepted(self, tmp_path: Path) -> None:
        file = tmp_path / "job.yaml"
        file.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
        assert load(str(file)).metadata.name == "intents"


class TestRelativeUris:
    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("file://./data/a.jsonl", "file:///home/me/jobs/data/a.jsonl"),
            ("file://../a.jsonl", "file:///home/me/a.jsonl"),
            ("file://./with%20blank", "file:///home/me/jobs/with%20blank"),
            ("file:///data/a.jsonl", "file:///data/a.jsonl"),
            ("s3://data/./a", "s3://data/./a"),
        ],
    )
    def test_are_relative_to_the_manifest(self, written: str, meant: str) -> None:
        job = parsed(GOOD.replace("s3://data/intents.jsonl", written).replace("s3://adapters", written))
        assert (job.spec.dataset.train.uri, job.spec.output.uri) == (meant, meant)

    def test_are_all_known(self) -> None:
        """A field for an address that is missing from the list could not be relative."""
        document = yaml.safe_load((Path(__file__).parents[2] / "crds/finetunejobs.finetune.dev.yaml").read_text())
        schema = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        found = {path for path, node in nodes(schema, "spec") if "file|" in node.get("pattern", "")}
        assert found == {".".join(path) for path in ADDRESSES}

    def test_special_characters_in_directories_are_encoded(self) -> None:
        job = parse(GOOD.replace("s3://adapters", "file://./out"), "job.yaml", Path("/home/a b#c"))
        assert job.spec.output.uri == "file:///home/a%20b%23c/out"

    def test_wildcards_of_data_are_kept(self) -> None:
        text = GOOD.replace("s3://data/intents.jsonl", "file://./b?/*.csv")
        assert parsed(text).spec.dataset.train.uri == "file:///home/me/jobs/b?/*.csv"
        model = GOOD.replace("hf://owner/encoder", "file://./m?")
        assert complaints(model) == [
            "job.yaml:6: spec.model.uri is 'file://./m?'; a URI has a path after the scheme, and no spaces, '?' or '#'"
        ]

    def test_missing_dot_is_explained(self) -> None:
        (complaint,) = complaints(GOOD.replace("s3://adapters", "file://out/x"))
        assert complaint.startswith("job.yaml:12: spec.output.uri is 'file://out/x', which has the host 'out'")
        assert "file://./out/x" in complaint


class TestUnknownFields:
    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("learningrate", "learningRate"),
            ("learning_rate", "learningRate"),
            ("learnigRate", "learningRate"),
            ("lrRate", "learningRate"),
            ("rank", "spec.method.lora.rank"),
            ("max_batch_size_per_device", "maxBatchSizePerDevice"),
        ],
    )
    def test_suggest_the_most_similar_field(self, written: str, meant: str) -> None:
        assert complaints(GOOD.replace("learningRate", written)) == [
            f"job.yaml:11: spec.training.{written} is not a field; did you mean {meant}?"
        ]

    def test_without_a_similar_field_get_no_suggestion(self) -> None:
        assert complaints(GOOD.replace("learningRate", "zzzzz")) == ["job.yaml:11: spec.training.zzzzz is not a field"]

    def test_at_another_level_get_the_full_path(self) -> None:
        assert complaints(with_spec("learningRate: 1e-3")) == [
            "job.yaml:13: spec.learningRate is not a field; did you mean spec.training.learningRate?"
        ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("resilience: {maxRestarts: many}", "spec.resilience.maxRestarts must be a whole number, not the text 'many'"),
        ("resilience: {maxRestarts: 2.5}", "spec.resilience.maxRestarts must be a whole number, not 2.5"),
        ("resilience: {maxRestarts: -1}", "spec.resilience.maxRestarts must be at least 0; it is -1"),
        (
            "resilience: {stallTimeoutSeconds: 1e9}",
            "spec.resilience.stallTimeoutSeconds must be at most 86400; it is 1000000000",
        ),
        ("resilience: []", "spec.resilience must be a group of fields, not a list"),
        (
            "method: {type: lora}",
            f"spec.method.type is 'lora', but must be one of {', '.join(MethodType)}; did you mean LoRA?",
        ),
        (
            "evaluation: {harness: [sums], gates: [{metric: acc, minimum: 0.5}]}",
            "spec.evaluation.gates[0].metric is 'acc', a metric of tasks of lm-eval: write task/acc with the name of a "
            "task in harness",
        ),
        (
            "evaluation: {gates: [{metric: [acc], minimum: 0.5}]}",
            f"spec.evaluation.gates[0].metric is ['acc'], but must be one of {', '.join(Metric)}",
        ),
        ("method: {type: 7}", f"spec.method.type is 7, but must be one of {', '.join(MethodType)}"),
        (
            "method: {type: LoRA, lora: {targetModules: []}}",
            "spec.method.lora.targetModules must have at least 1 entry; it has 0",
        ),
        (
            "method: {type: LoRA, lora: {targetModules: [1]}}",
            "spec.method.lora.targetModules[0] must be text, not a whole number; put it in quotes",
        ),
        ("method: {type: LoRA, lora: {dropout: 1}}", "spec.method.lora.dropout must be below 1; it is 1"),
        ("method: {type: Full, lora: {rank: 4}}", "spec.method.lora: lora is only valid for type LoRA"),
        (
            "evaluation: {metrics: [rouge]}",
            f"spec.evaluation.metrics[0] is 'rouge', but must be one of {', '.join(Metric)}; did you mean rouge_l?",
        ),
        (
            "evaluation: {metrics: [rouge_l]}",
            "spec.evaluation.metrics: evaluation.metrics of TextClassification are accuracy, macro_f1, weighted_f1, "
            "mcc, auroc, ece",
        ),
        (
            "evaluation: {gates: [{metric: accuracy}]}",
            "spec.evaluation.gates[0].metric: set exactly one of minimum, maximum and minimumImprovement",
        ),
    ],
)
def test_message_for_each_kind_of_invalid_value(line: str, complaint: str) -> None:
    assert complaints(with_spec(line)) == [f"job.yaml:13: {complaint}"]


def test_rule_violation_is_reported_at_the_line_of_the_field() -> None:
    text = GOOD.replace("learningRate: 2e-4", "learningRate: 2e-4\n    batchSize: 33") + "  distributed: {workers: 2}\n"
    (complaint,) = complaints(text)
    assert complaint.startswith("job.yaml:12: spec.training.batchSize: training.batchSize must be a multiple of")


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        ("Which {txt}?", "each of method.promptSearch.candidates of TextClassification has {text} in it"),
        ("{text}?", "candidates must be different from each other"),
    ],
)
def test_rule_violation_of_an_entry_is_reported_at_its_line(second: str, complaint: str) -> None:
    search = ["method:", "  type: PromptSearch", "  promptSearch:", "    candidates:", '      - "{text}?"']
    (found,) = complaints(with_spec(*search, f'      - "{second}"'))
    assert found.startswith(f"job.yaml:18: spec.method.promptSearch.candidates[1]: {complaint}")


def test_unquoted_boolean_for_text_is_explained() -> None:
    (complaint, *_) = complaints(
        GOOD.replace("{type: TextClassification}", "{type: TextClassification, labels: [yes, no]}")
    )
    assert complaint == "job.yaml:7: spec.task.labels[0] must be text, not true or false; put it in quotes"


def test_invalid_number_is_quoted() -> None:
    assert complaints(GOOD.replace("2e-4", "2e-4x")) == [
        "job.yaml:11: spec.training.learningRate must be a number, not the text '2e-4x'"
    ]


def test_missing_field_is_reported_at_its_parent() -> None:
    text = GOOD.replace('    train: {uri: "s3://data/intents.jsonl"}\n', "    train: {}\n")
    assert complaints(text) == ["job.yaml:9: spec.dataset.train.uri is missing"]


def test_name_that_kubernetes_would_reject() -> None:
    (complaint,) = complaints(GOOD.replace("name: intents", "name: My_Job"))
    assert complaint.startswith("job.yaml:4: metadata.name is 'My_Job'; a name has only lower-case letters")


def test_uri_with_an_unknown_scheme() -> None:
    (complaint,) = complaints(GOOD.replace("s3://adapters", "ftp://adapters"))
    assert (
        complaint == "job.yaml:12: spec.output.uri is 'ftp://adapters'; a URI starts with file://, s3://, gs://, az://"
    )


def test_path_instead_of_a_uri() -> None:
    (complaint,) = complaints(GOOD.replace("s3://adapters", "/data/out/here"))
    assert "write a path on this machine as file:///absolute/path or file://./relative/path" in complaint


def test_all_problems_are_reported_in_order_of_lines() -> None:
    text = with_spec("method: {type: lora}", "nonsense: 1").replace("2e-4", "fast").replace("name: intents", "name: A")
    assert [complaint.split(" ")[0] for complaint in complaints(text)] == [
        "job.yaml:4:",
        "job.yaml:11:",
        "job.yaml:13:",
        "job.yaml:14:",
    ]


class TestFile:
    def test_empty(self) -> None:
        assert complaints("") == ["job.yaml:1: is empty; a FineTuneJob starts with apiVersion, kind and metadata"]
        assert complaints("# only a comment\n---\n")[0].startswith("job.yaml:1: is empty")

    def test_invalid_yaml(self) -> None:
        (complaint,) = complaints(GOOD.replace("kind: FineTuneJob", "kind: [FineTuneJob"))
        assert complaint.startswith("job.yaml:3: is not valid YAML: ")

    def test_tab_indentation(self) -> None:
        assert complaints(GOOD.replace("  name", "\tname")) == [
            "job.yaml:4: is indented with a tab; YAML requires spaces"
        ]

    def test_list_or_scalar_instead_of_a_mapping(self) -> None:
        assert "must be a mapping with apiVersion" in complaints("- 1\n")[0]
        assert "must be a mapping with apiVersion" in complaints("hello\n")[0]

    def test_other_kind(self) -> None:
        assert complaints(GOOD.replace("kind: FineTuneJob", "kind: Job")) == [
            "job.yaml:2: kind is 'Job', but must be FineTuneJob"
        ]

    def test_other_api_version(self) -> None:
        assert complaints(GOOD.replace("v1alpha1", "v1")) == [
            "job.yaml:1: apiVersion is 'finetune.dev/v1', but must be finetune.dev/v1alpha1"
        ]

    def test_missing_kind(self) -> None:
        assert complaints(GOOD.replace("kind:", "Kind:")) == ["job.yaml:1: kind is missing; it is spelled Kind here"]

    def test_duplicate_key(self) -> None:
        assert complaints(GOOD.replace("learningRate: 2e-4", "seed: 1\n    seed: 2")) == [
            "job.yaml:12: spec.training.seed is a duplicate key; the first one is in line 11"
        ]

    def test_two_jobs(self) -> None:
        assert complaints(GOOD + "---\n" + GOOD) == [
            "job.yaml:14: contains 2 FineTuneJobs, in lines 1 and 14; put each into its own file"
        ]

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestError, match="cannot be read: no such file or directory"):
            load(str(tmp_path / "no.yaml"))

    def test_directory(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestError, match="cannot be read: is a directory"):
            load(str(tmp_path))

    def test_not_utf_8(self, tmp_path: Path) -> None:
        file = tmp_path / "job.yaml"
        file.write_bytes(b"kind: x\nname: \xff\n")
        with pytest.raises(ManifestError, match=":2: is not UTF-8 text"):
            load(str(file))

    def test_too_large(self, tmp_path: Path) -> None:
        file = tmp_path / "job.yaml"
        file.write_bytes(b"#" * (2 << 20))
        with pytest.raises(ManifestError, match="larger than 1 MiB"):
            load(str(file))

    def test_alias_expansion_is_limited(self) -> None:
        bomb = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        for before, name in zip("abcdef", "bcdefg", strict=True):
            bomb += f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
        assert "after aliases are expanded" in complaints(bomb)[0]

    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            ("&a [*a]", "has an anchor that contains an alias of itself"),
            ("&a {uri: *a}", "has an anchor that contains an alias of itself"),
            ("&a {<<: *a}", "has an anchor that contains an alias of itself"),
            ("9" * 5000, f"spec.model is a number that is too large: {'9' * 39}…"),
            ("0x" + "f" * 5000, f"spec.model is a number that is too large: 0x{'f' * 37}…"),
            ("1e999", "spec.model is a number that is too large: 1e999"),
            ('"\\UFFFFFFFF"', "is not valid YAML:"),
            ("!!binary [", "is not valid YAML:"),
        ],
    )
    def test_hostile_values_are_problems_of_their_line(self, value: str, problem: str) -> None:
        (found,) = complaints(GOOD.replace('{uri: "hf://owner/encoder"}', value))
        # YAML that is cut off is noticed in a later line.
        assert re.fullmatch(rf"job\.yaml:\d+: {re.escape(problem)}.*", found)
        assert found.startswith("job.yaml:6: ") or "not valid" in found

    def test_long_values_and_names_are_clipped(self) -> None:
        long = "x" * 5000
        for written in (f"type: {long}", f"{long}: 1", f'type: "{long}"'):
            assert all(len(found) < 400 for found in complaints(GOOD.replace("type: TextClassification", written)))

    def test_deep_nesting_is_limited(self) -> None:
        assert "nested too deeply" in complaints("[" * 1000)[0]


def test_short_words_are_not_taken_for_each_other() -> None:
    assert nearest("PHP", ["Python", "JavaScript", "Cpp", "Go"]) is None
    assert nearest("pyhton", ["Python", "JavaScript", "Cpp", "Go"]) == "Python"
