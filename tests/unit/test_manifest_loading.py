"""What a person is told about a manifest: file, line and what to do, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.job import FineTuneJob
from finetune_cli.manifest import ManifestError, load, parse

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
    """The good manifest with more lines at its end, the first of which is line 13."""
    return GOOD + "".join(f"  {line}\n" for line in lines)


class TestAGoodManifest:
    def test_is_read(self) -> None:
        job = parsed(GOOD)
        assert (job.metadata.name, job.metadata.namespace) == ("intents", "default")

    @pytest.mark.parametrize("written", ["2e-4", "2E-4", "0.0002", "2.0e-04", "+2e-4"])
    def test_has_numbers_where_numbers_are_written(self, written: str) -> None:
        assert parsed(GOOD.replace("2e-4", written)).spec.training.learning_rate == 0.0002

    @pytest.mark.parametrize("written", ["64", "64.0", "6.4e1", "0x40"])
    def test_has_whole_numbers_as_kubectl_sends_them(self, written: str) -> None:
        assert parsed(GOOD.replace("learningRate: 2e-4", f"batchSize: {written}")).spec.training.batch_size == 64

    def test_has_numbers_under_yaml_1_1_too(self) -> None:
        assert parsed("%YAML 1.1\n---\n" + GOOD).spec.training.learning_rate == 0.0002

    @pytest.mark.parametrize("written", ["true", "yes", "on", "True"])
    def test_has_booleans_as_kubectl_reads_them(self, written: str) -> None:
        assert parsed(GOOD.replace("learningRate: 2e-4", f"activationCheckpointing: {written}")).spec.training

    def test_may_use_anchors_and_merge_keys(self) -> None:
        text = GOOD.replace(
            'train: {uri: "s3://data/intents.jsonl"}', 'train: &t {uri: "s3://x/y"}\n    test: {<<: *t}'
        )
        assert parsed(text).spec.dataset.test.uri == "s3://x/y"

    def test_may_carry_a_status_which_is_ignored(self) -> None:
        assert parsed(GOOD + "status: {phase: Nonsense}\n").status.revision == 0

    def test_may_stand_beside_other_objects(self) -> None:
        other = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team-a}\n---\n"
        assert parsed(other + GOOD).metadata.name == "intents"

    def test_may_be_json(self) -> None:
        assert parsed(parsed(GOOD).model_dump_json(exclude_none=True, exclude={"status"})).metadata.name == "intents"

    def test_may_start_with_a_byte_order_mark(self, tmp_path: Path) -> None:
        file = tmp_path / "job.yaml"
        file.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
        assert load(str(file)).metadata.name == "intents"


class TestRelativeAddresses:
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

    def test_directories_with_strange_names_are_encoded(self) -> None:
        job = parse(GOOD.replace("s3://adapters", "file://./out"), "job.yaml", Path("/home/a b#c"))
        assert job.spec.output.uri == "file:///home/a%20b%23c/out"

    def test_a_forgotten_dot_is_explained(self) -> None:
        (complaint,) = complaints(GOOD.replace("s3://adapters", "file://out/x"))
        assert complaint.startswith("job.yaml:12: spec.output.uri is 'file://out/x', which names the host 'out'")
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
    def test_name_the_nearest_known_one(self, written: str, meant: str) -> None:
        assert complaints(GOOD.replace("learningRate", written)) == [
            f"job.yaml:11: spec.training.{written} is not a field; did you mean {meant}?"
        ]

    def test_that_are_like_nothing_get_no_guess(self) -> None:
        assert complaints(GOOD.replace("learningRate", "zzzzz")) == ["job.yaml:11: spec.training.zzzzz is not a field"]

    def test_at_another_level_say_where_they_belong(self) -> None:
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
        ("method: {type: lora}", "spec.method.type is 'lora', and must be one of Full, LoRA; did you mean LoRA?"),
        ("method: {type: 7}", "spec.method.type is 7, and must be one of Full, LoRA"),
        (
            "method: {type: LoRA, lora: {targetModules: []}}",
            "spec.method.lora.targetModules must have at least 1 entry; it has 0",
        ),
        (
            "method: {type: LoRA, lora: {targetModules: [1]}}",
            "spec.method.lora.targetModules[0] must be text, not a whole number; put it in quotes",
        ),
        ("method: {type: LoRA, lora: {dropout: 1}}", "spec.method.lora.dropout must be below 1; it is 1"),
        ("method: {type: Full, lora: {rank: 4}}", "spec.method.lora: lora belongs to type LoRA only"),
        (
            "evaluation: {metrics: [rouge]}",
            "spec.evaluation.metrics[0] is 'rouge', and must be one of accuracy, macro_f1, weighted_f1, loss, "
            "token_accuracy, exact_match, rouge_l, chrf; did you mean rouge_l?",
        ),
        (
            "evaluation: {metrics: [rouge_l]}",
            "spec.evaluation.metrics: evaluation.metrics of TextClassification are accuracy, macro_f1, weighted_f1",
        ),
        (
            "evaluation: {gates: [{metric: accuracy}]}",
            "spec.evaluation.gates[0].metric: give one of minimum, maximum and minimumImprovement",
        ),
    ],
)
def test_what_is_wrong_with_a_value(line: str, complaint: str) -> None:
    assert complaints(with_spec(line)) == [f"job.yaml:13: {complaint}"]


def test_a_rule_is_told_at_the_line_of_the_field_to_change() -> None:
    text = GOOD.replace("learningRate: 2e-4", "learningRate: 2e-4\n    batchSize: 33") + "  distributed: {workers: 2}\n"
    (complaint,) = complaints(text)
    assert complaint.startswith("job.yaml:12: spec.training.batchSize: training.batchSize must be a multiple of")


def test_a_boolean_that_should_be_text_is_explained() -> None:
    (complaint, *_) = complaints(
        GOOD.replace("{type: TextClassification}", "{type: TextClassification, labels: [yes, no]}")
    )
    assert complaint == "job.yaml:7: spec.task.labels[0] must be text, not true or false; put it in quotes"


def test_a_wrong_number_shows_what_was_written() -> None:
    assert complaints(GOOD.replace("2e-4", "2e-4x")) == [
        "job.yaml:11: spec.training.learningRate must be a number, not the text '2e-4x'"
    ]


def test_a_missing_field_is_told_where_it_belongs() -> None:
    text = GOOD.replace('    train: {uri: "s3://data/intents.jsonl"}\n', "    train: {}\n")
    assert complaints(text) == ["job.yaml:9: spec.dataset.train.uri is missing"]


def test_a_name_that_kubernetes_would_refuse() -> None:
    (complaint,) = complaints(GOOD.replace("name: intents", "name: My_Job"))
    assert complaint.startswith("job.yaml:4: metadata.name is 'My_Job'; a name is made of lower-case letters")


def test_an_address_of_an_unknown_kind() -> None:
    (complaint,) = complaints(GOOD.replace("s3://adapters", "ftp://adapters"))
    assert (
        complaint
        == "job.yaml:12: spec.output.uri is 'ftp://adapters'; an address starts with file://, s3://, gs://, az://"
    )


def test_a_bare_path_as_address() -> None:
    (complaint,) = complaints(GOOD.replace("s3://adapters", "/data/out/here"))
    assert "write a path on this machine as file:///absolute/path or file://./relative/path" in complaint


def test_everything_is_told_at_once_in_order_of_lines() -> None:
    text = with_spec("method: {type: lora}", "nonsense: 1").replace("2e-4", "fast").replace("name: intents", "name: A")
    assert [complaint.split(" ")[0] for complaint in complaints(text)] == [
        "job.yaml:4:",
        "job.yaml:11:",
        "job.yaml:13:",
        "job.yaml:14:",
    ]


class TestTheFileItself:
    def test_empty(self) -> None:
        assert complaints("") == ["job.yaml:1: is empty; a FineTuneJob starts with apiVersion, kind and metadata"]
        assert complaints("# only a comment\n---\n")[0].startswith("job.yaml:1: is empty")

    def test_not_yaml(self) -> None:
        (complaint,) = complaints(GOOD.replace("kind: FineTuneJob", "kind: [FineTuneJob"))
        assert complaint.startswith("job.yaml:3: is not YAML: ")

    def test_a_tab(self) -> None:
        assert complaints(GOOD.replace("  name", "\tname")) == ["job.yaml:4: is indented with a tab; YAML wants spaces"]

    def test_a_list_or_a_word(self) -> None:
        assert "must be fields such as apiVersion" in complaints("- 1\n")[0]
        assert "must be fields such as apiVersion" in complaints("hello\n")[0]

    def test_another_kind(self) -> None:
        assert complaints(GOOD.replace("kind: FineTuneJob", "kind: Job")) == [
            "job.yaml:2: kind is 'Job', and must be FineTuneJob"
        ]

    def test_another_version(self) -> None:
        assert complaints(GOOD.replace("v1alpha1", "v1")) == [
            "job.yaml:1: apiVersion is 'finetune.dev/v1', and must be finetune.dev/v1alpha1"
        ]

    def test_no_kind(self) -> None:
        assert complaints(GOOD.replace("kind:", "Kind:")) == ["job.yaml:1: kind is missing; it is written Kind here"]

    def test_a_key_twice(self) -> None:
        assert complaints(GOOD.replace("learningRate: 2e-4", "seed: 1\n    seed: 2")) == [
            "job.yaml:12: spec.training.seed is given twice, first in line 11"
        ]

    def test_two_jobs(self) -> None:
        assert complaints(GOOD + "---\n" + GOOD) == [
            "job.yaml:14: holds 2 FineTuneJobs, in lines 1 and 14; run them from files of their own"
        ]

    def test_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestError, match="cannot be read: no such file or directory"):
            load(str(tmp_path / "no.yaml"))

    def test_a_directory(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestError, match="cannot be read: is a directory"):
            load(str(tmp_path))

    def test_not_utf_8(self, tmp_path: Path) -> None:
        file = tmp_path / "job.yaml"
        file.write_bytes(b"kind: x\nname: \xff\n")
        with pytest.raises(ManifestError, match=":2: is not UTF-8 text"):
            load(str(file))

    def test_huge(self, tmp_path: Path) -> None:
        file = tmp_path / "job.yaml"
        file.write_bytes(b"#" * (2 << 20))
        with pytest.raises(ManifestError, match="larger than 1 MiB"):
            load(str(file))

    def test_aliases_that_multiply(self) -> None:
        bomb = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        for before, name in zip("abcdef", "bcdefg", strict=True):
            bomb += f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
        assert "aliases written out" in complaints(bomb)[0]

    def test_deep_nesting(self) -> None:
        assert "nested too deeply" in complaints("[" * 1000)[0]
