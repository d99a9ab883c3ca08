"""LanguageModeling end to end: text files and rows, likelihoods computed anew, and the program on the model card."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from peft import PeftModel
from prepare_fixtures import a_context, json_lines, prepared, refused, stored
from tokenizers import processors
from transformers import AutoModelForCausalLM

from finetune_api.failures import Reason
from finetune_trainer.predict import Request, predict
from finetune_trainer.splits import open_split
from finetune_trainer.tasks.language_modeling import task
from finetune_trainer.tasks.language_modeling.presentation import SAMPLE
from finetune_trainer.tasks.language_modeling.training import JoinedDocuments
from tests.trainer.pair_models import word_tokenizer
from tests.trainer.stages import TinyJob
from tests.trainer.tiny_models import make_texts, tiny_llama
from tests.usual_stages import STAGES

DOCUMENTS = ["a b c", "d e f g h", "i j", "k l m n o p q", "r", "s t u v"]
"""22 words in 6 documents."""
TEXTS = ["the cat sat", "naïve café", "日本 東京", "ok 🙂", "one two three four"]
"""13 words, and 61 bytes of UTF-8."""
LENGTH = 8


def save_decoder(directory: Path, texts: list[str], start: bool = False, uniform: bool = False) -> None:
    """A Llama of two layers that knows every word of ``texts``; a ``uniform`` one finds all words equally likely."""
    tokenizer = word_tokenizer([*texts, "<s>"] if start else texts)
    if start:
        tokenizer.bos_token = "<s>"
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
    model = tiny_llama(tokenizer, max_position_embeddings=64)
    if uniform:
        torch.nn.init.zeros_(model.lm_head.weight)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


@dataclass(frozen=True)
class Tuned:
    """A job that has run to its end."""

    job: TinyJob

    @property
    def artifact(self) -> Path:
        return self.job.revision / "artifact"

    @property
    def evaluation(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.artifact / "evaluation.json").read_text())
        return document

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        return {metric["name"]: metric for metric in self.evaluation["metrics"]}

    @property
    def predictions(self) -> list[dict[str, Any]]:
        lines = (self.job.revision / "evaluated" / "predictions.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def model(self) -> Any:
        """The tuned model, loaded without the product."""
        if (self.artifact / "model.safetensors").exists():
            return AutoModelForCausalLM.from_pretrained(self.artifact).eval()
        base = AutoModelForCausalLM.from_pretrained(self.job.root / "base")
        return PeftModel.from_pretrained(base, str(self.artifact)).eval()


def run(root: Path, dataset: dict[str, Any], method: str, slices: Sequence[str] = (), **training: Any) -> Tuned:
    spec = {
        "model": {"uri": (root / "base").as_uri()},
        "task": {"type": "LanguageModeling"},
        "dataset": dataset,
        "method": {"type": method},
        "training": {"batchSize": 4, "maxSequenceLength": LENGTH, **training},
        "evaluation": {"publishWorse": True, "slices": list(slices)},
        "distributed": {"gpusPerWorker": 0, "zero": {"stage": 0}},
        "output": {"uri": (root / "storage").as_uri(), "keep": {"preparedData": True}},
    }
    job = TinyJob(root, spec, method.lower())
    for stage in STAGES:
        outcome = job.run(stage)
        assert outcome.code == 0, outcome.log
    return Tuned(job)


def the_same_splits(uri: str, **more: Any) -> dict[str, Any]:
    """A dataset to learn by heart."""
    return {
        "train": {"uri": uri},
        "validation": {"uri": uri},
        "test": {"uri": uri, "minimumExamples": 1},
        "cleaning": {"deduplicate": "None"},
        **more,
    }


@pytest.fixture(scope="module", params=["Full", "LoRA"])
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """Lines of a text file, some of which are longer than a row; the Full one has a start token."""
    root = tmp_path_factory.mktemp(request.param)
    texts = [text for text, _ in make_texts(12, 2)] + ["the " + " a of in we saw some with and more" * 2]
    save_decoder(root / "base", texts, start=request.param == "Full")
    (root / "lines.txt").write_text("\n".join(texts) + "\n")
    dataset = the_same_splits((root / "lines.txt").as_uri(), documents="Line")
    return run(root, dataset, request.param, maxSteps=60, evaluateEverySteps=30, learningRate=2e-2)


class TestTunedModel:
    def test_is_better_than_the_base_model(self, tuned: Tuned) -> None:
        for name in ("perplexity", "bits_per_byte"):
            metric = tuned.metrics[name]
            assert metric["tuned"] < 0.99 * metric["baseline"]
            assert metric["interval"][1] < 0
        assert tuned.evaluation["baseline"]["kind"] == "BaseModel"
        assert tuned.evaluation["verdict"] == "better"

    def test_has_the_likelihoods_that_one_pass_over_each_window_gives(self, tuned: Tuned) -> None:
        """Long documents are read in windows of eight tokens, which go on by four."""
        model, table = tuned.model(), open_split(tuned.job.revision / "prepared", "test")
        start = tuned.job.name == "full"
        windows = 0
        for row, tokens in zip(tuned.predictions, table["input_ids"].to_pylist(), strict=True):
            sequence = tokens if start else [model.config.eos_token_id, *tokens]
            nll, stop, predicted = 0.0, 0, 1
            while stop < len(sequence):
                stop = min(len(sequence), stop + (LENGTH if stop == 0 else LENGTH // 2))
                first = max(0, stop - LENGTH)
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([sequence[first:stop]])).logits[0].log_softmax(dim=-1)
                nll -= sum(float(logits[place - first - 1, sequence[place]]) for place in range(predicted, stop))
                predicted, windows = stop, windows + 1
            assert row["nll"]["tuned"] == pytest.approx(nll, rel=1e-4)
            assert (row["tokens"], row["bytes"]) == (len(sequence) - 1, len(row["text"].encode()))
        details = tuned.evaluation["details"]
        assert details["windows"] == windows > len(table)
        assert details["documentsInSeveralWindows"] == sum(
            len(row["text"].split()) > LENGTH - 2 for row in tuned.predictions
        )
        assert details["before"] == ("<s>" if start else "</s>")

    def test_has_the_metrics_that_its_rows_give(self, tuned: Tuned) -> None:
        rows, metrics = tuned.predictions, tuned.metrics
        for model in ("baseline", "tuned"):
            nll, tokens, size = (
                sum(values)
                for values in zip(*[(row["nll"][model], row["tokens"], row["bytes"]) for row in rows], strict=True)
            )
            assert metrics["perplexity"][model] == pytest.approx(math.exp(nll / tokens))
            assert metrics["bits_per_byte"][model] == pytest.approx(nll / math.log(2) / size)
        details = tuned.evaluation["details"]
        assert details["scoredTokens"] == sum(len(row["text"].split()) + 1 for row in rows)
        assert details["scoredEnds"] == len(rows)
        assert sum(part["tokens"] for part in details["lossByPosition"]) == details["scoredTokens"]

    def test_is_used_by_the_program_on_its_model_card(self, tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
        """Word for word but for its text and the place of the base model."""
        row = min(tuned.predictions, key=lambda row: len(row["text"]))
        program = (tuned.artifact / "README.md").read_text().split("```python\n")[1].split("```")[0]
        changed = program.replace(SAMPLE, row["text"]).replace('"path/to/base"', repr(str(tuned.job.root / "base")))
        assert changed != program
        monkeypatch.chdir(tuned.artifact)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(changed, "README.md", "exec"), {})
        measured, continued = output.getvalue().split("\n", maxsplit=1)
        assert float(measured.removeprefix("perplexity ")) == pytest.approx(row["scores"]["perplexity"]["tuned"], 1e-4)
        assert continued.startswith(row["text"])

    def test_scores_in_predict_what_it_scored_in_the_evaluation(self, tuned: Tuned, tmp_path: Path) -> None:
        rows = [{"text": row["text"]} if n % 2 else row["text"] for n, row in enumerate(tuned.predictions)]
        found = predict(Request(artifact=tuned.artifact.as_uri(), rows=rows), tmp_path).predictions
        for one, row in zip(found, tuned.predictions, strict=True):
            assert one.document["nll"] == pytest.approx(row["nll"]["tuned"], rel=1e-5)
            assert one.document["tokens"] == row["tokens"]
            assert one.text.startswith(f"perplexity {one.document['perplexity']:.2f}  bits_per_byte ")

    def test_is_described_in_report_and_model_card(self, tuned: Tuned) -> None:
        report = (tuned.artifact / "report.html").read_text()
        assert "Each document was scored alone, after " in report
        assert "Largest gains" in report
        assert "Loss by position in the document" in report
        assert "attention crosses documents" in report
        assert tuned.predictions[0]["source"].startswith("lines.txt:")
        assert "for continuing texts" in (tuned.artifact / "README.md").read_text()
        generation = json.loads((tuned.artifact / "generation_config.json").read_text())
        assert generation["eos_token_id"] == 1


def test_a_model_that_knows_nothing_is_as_perplexed_as_its_vocabulary_is_large(tmp_path: Path) -> None:
    save_decoder(tmp_path / "base", TEXTS, start=True, uniform=True)
    vocabulary = AutoModelForCausalLM.from_pretrained(tmp_path / "base").config.vocab_size
    rows = [{"text": text, "kind": ("ascii", "other")[not text.isascii()]} for text in TEXTS]
    dataset = the_same_splits(json_lines(tmp_path / "rows.jsonl", rows))
    tuned = run(tmp_path, dataset, "LoRA", slices=["kind"], maxSteps=1, learningRate=1e-9)
    details = tuned.evaluation["details"]
    found = {one["value"]: one for one in details["slices"][0]["values"]}
    # Tokens, with the end of each document, and bytes of the documents of each kind.
    for kind, documents, tokens, size in (("ascii", 2, 9, 29), ("other", 3, 9, 32)):
        values = {metric["name"]: metric["tuned"] for metric in found[kind]["metrics"]}
        assert found[kind]["examples"] == documents
        assert values["perplexity"] == pytest.approx(vocabulary, rel=1e-5)
        assert 2 ** values["bits_per_byte"] == pytest.approx(vocabulary ** (tokens / size), rel=1e-5)
    assert (details["scoredTokens"], details["scoredEnds"], details["bytes"]) == (18, 5, 61)
    for model in ("baseline", "tuned"):
        assert tuned.metrics["perplexity"][model] == pytest.approx(vocabulary, rel=1e-5)
        assert 2 ** tuned.metrics["bits_per_byte"][model] == pytest.approx(vocabulary ** (18 / 61), rel=1e-5)


Rows = Callable[..., tuple[list[list[int]], list[list[int]]]]


@pytest.fixture
def rows_of(tmp_path: Path) -> Rows:
    """Prepare documents, and return the tokens and the labels of the training rows."""

    def made(documents: list[str], length: int, start: bool = False) -> tuple[list[list[int]], list[list[int]]]:
        save_decoder(tmp_path / "base", documents, start=start)
        dataset = the_same_splits(json_lines(tmp_path / "rows.jsonl", [{"text": text} for text in documents]))
        context = a_context(
            tmp_path,
            (tmp_path / "base").as_uri(),
            {"type": "LanguageModeling"},
            dataset,
            training={"maxSequenceLength": length},
        )
        result, report = prepared(context)
        table = open_split(stored(context), "train")
        data = JoinedDocuments(table, report.max_sequence_length, len(report.start_tokens))
        rows = [data[index] for index in range(len(data))]
        assert data.lengths.tolist() == [len(row["input_ids"]) for row in rows]
        assert (
            f"an epoch has {result.tokens} tokens of {len(documents)} documents in {len(rows)} row" in report.notes[0]
        )
        return [row["input_ids"].tolist() for row in rows], [row["labels"].tolist() for row in rows]

    return made


class TestRows:
    def test_have_every_token_once_and_every_end_as_a_label(self, rows_of: Rows) -> None:
        tokens, labels = rows_of(DOCUMENTS, 8)
        assert [len(row) for row in tokens] == [7, 7, 7, 7]
        assert sorted(token for row in tokens for token in row) == [1] * 6 + list(range(3, 25))
        assert sum(label == 1 for row in labels for label in row) == 6
        for row, targets in zip(tokens, labels, strict=True):
            assert targets == [-100, *row[1:]]

    @pytest.mark.parametrize(("length", "lengths"), [(16, [9]), (8, [4, 5])])
    def test_have_the_rest_of_the_documents(self, rows_of: Rows, length: int, lengths: list[int]) -> None:
        assert [len(row) for row in rows_of(["a b", "c d e", "f"], length)[0]] == lengths

    def test_have_no_start_token_as_a_label(self, rows_of: Rows) -> None:
        tokens, labels = rows_of(DOCUMENTS, 8, start=True)
        start = tokens[0][0]
        assert sum(row.count(start) for row in tokens) == 6
        assert not any(start in row for row in labels)
        assert sum(row.count(1) for row in labels) == 6

    def test_of_several_chunks_are_those_of_one(self) -> None:
        lists = [[3, 4, 1], [5, 1], [6, 7, 8, 9, 10, 1], [11, 1], [12, 13, 1]]
        kind = pa.list_(pa.int32())
        whole = pa.table({"input_ids": pa.array(lists, kind)})
        parts = pa.concat_tables([whole.slice(start, 2) for start in (0, 2, 4)])
        joined, divided = JoinedDocuments(whole, 8, 0), JoinedDocuments(parts, 8, 0)
        assert len(joined) == len(divided) == 2
        for index in range(2):
            assert joined[index]["input_ids"].tolist() == divided[index]["input_ids"].tolist()


def context_of(root: Path, uri: str, **settings: Any) -> Any:
    if not (root / "base").exists():
        save_decoder(root / "base", DOCUMENTS)
    dataset = {"train": {"uri": uri}, **settings.pop("dataset", {})}
    return a_context(root, (root / "base").as_uri(), {"type": "LanguageModeling"}, dataset, **settings)


class TestRefusals:
    def test_tokenizer_without_an_end(self, tmp_path: Path) -> None:
        save_decoder(tmp_path / "base", DOCUMENTS)
        config = json.loads((tmp_path / "base" / "tokenizer_config.json").read_text())
        del config["eos_token"]
        (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps(config))
        failure = refused(context_of(tmp_path, json_lines(tmp_path / "rows.jsonl", [{"text": "a"}] * 9)))
        assert failure.reason is Reason.BAD_CONFIGURATION
        assert "no end-of-sequence token, so no document would end: add eos_token" in failure.message

    def test_one_file_that_is_one_document(self, tmp_path: Path) -> None:
        (tmp_path / "book.txt").write_text("\n\n".join(DOCUMENTS))
        failure = refused(context_of(tmp_path, (tmp_path / "book.txt").as_uri()))
        assert failure.reason is Reason.BAD_DATA
        assert "divide the text files with dataset.documents" in failure.message

    def test_invalid_documents_with_their_lines(self, tmp_path: Path) -> None:
        (tmp_path / "lines.txt").write_bytes(b"a b\nc\0d\n\xff\n")
        failure = refused(context_of(tmp_path, (tmp_path / "lines.txt").as_uri(), dataset={"documents": "Line"}))
        assert "lines.txt:2: the line contains a NUL character" in failure.message
        assert "1 at :3: " in failure.message

    def test_more_processes_than_rows(self, tmp_path: Path) -> None:
        uri = json_lines(tmp_path / "rows.jsonl", [{"text": text} for text in DOCUMENTS])
        workers = {"workers": 2, "gpusPerWorker": 1}
        failure = refused(context_of(tmp_path, uri, distributed=workers, training={"maxSequenceLength": 64}))
        assert "More processes than rows: 2 processes" in failure.message
        assert prepared(context_of(tmp_path / "b", uri, distributed=workers, training={"maxSequenceLength": 8}))


def test_end_tokens_in_the_text_are_noted(tmp_path: Path) -> None:
    uri = json_lines(tmp_path / "rows.jsonl", [{"text": f"{text} </s> a"} for text in DOCUMENTS])
    _, report = prepared(context_of(tmp_path, uri))
    assert "6 documents contain the end token '</s>' in the text, which is learned as an end" in report.notes


@pytest.mark.parametrize(
    ("names", "row", "certain"),
    [
        (("text",), {"text": "a"}, True),
        (("text", "url"), {"text": "a"}, False),
        (("text",), {"text": 1}, None),
        (("a",), {"a": "b"}, None),
    ],
)
def test_data_with_texts_alone_is_recognised(names: tuple[str, ...], row: dict[str, Any], certain: bool | None) -> None:
    found = task.recognise(names, [row])
    assert (found and found.certain) is certain
