"""Summarization and Translation end to end: on a decoder, and on models with an encoder and a decoder."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prepare_fixtures import a_context, json_lines, prepared, refused, stored
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from finetune_api.failures import Reason
from finetune_trainer.evaluate.generation import until_end
from finetune_trainer.evaluate.prompts import CausalPrompts, Seq2SeqPrompts
from finetune_trainer.modelling.shift import shift_of
from finetune_trainer.predict import Request, predict
from finetune_trainer.splits import open_split
from finetune_trainer.tasks.summarization import Summarization
from finetune_trainer.train.seq2seq import Seq2SeqCollator, Seq2SeqDataset, loss
from tests.trainer.pair_models import save_marian, save_nllb, save_t5
from tests.trainer.pairs_fixtures import by_heart
from tests.trainer.stages import TinyJob
from tests.trainer.tiny_models import FILLER, LABELS, save_llama

PAIRS = [("good morning", "guten morgen"), ("the cat sleeps", "die katze schläft"), ("it rains", "es regnet")] * 4
TRANSLATION = {"type": "Translation", "sourceLanguage": "en", "targetLanguage": "de"}


@pytest.fixture(scope="module", params=[("t5", "Full"), ("t5", "LoRA"), ("llama", "Full")], ids="-".join)
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    model, method = request.param
    return by_heart(tmp_path_factory.mktemp(model), model, method)


class TestSummaries:
    def test_are_learned_by_heart(self, tuned: TinyJob) -> None:
        score = tuned.evaluation["metrics"][0]
        assert score["name"] == "rouge_l"
        assert score["tuned"] > max(0.8, score["baseline"] + 0.3)

    def test_of_the_artifact_are_those_of_the_evaluation(self, tuned: TinyJob, monkeypatch: pytest.MonkeyPatch) -> None:
        """The program on the model card, word for word but for its text."""
        row = tuned.predictions[0]
        program = tuned.usage
        changed = program.replace(Summarization.sample, row["prompt"])
        assert changed != program
        changed = changed.replace('"path/to/base"', repr(str(tuned.root / "base")))
        monkeypatch.chdir(tuned.artifact)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(changed, "README.md", "exec"), {})
        assert output.getvalue().strip() == row["tuned"].strip()

    def test_are_shown_in_the_report_with_their_differences(self, tuned: TinyJob) -> None:
        report = (tuned.artifact / "report.html").read_text()
        assert "<h4>Text · rows.jsonl:" in report
        assert "<mark>" in report

    def test_of_predict_are_those_of_the_evaluation(self, tuned: TinyJob, tmp_path: Path) -> None:
        rows = [{"text": row["prompt"]} if n % 2 else row["prompt"] for n, row in enumerate(tuned.predictions)]
        request = Request(artifact=tuned.artifact.as_uri(), rows=rows)
        found = [(one.document["text"], one.document["summary"]) for one in predict(request, tmp_path).predictions]
        assert found == [(row["prompt"], row["tuned"]) for row in tuned.predictions]

    def test_say_how_they_were_generated(self, tuned: TinyJob) -> None:
        details = tuned.evaluation["details"]
        assert (details["decoding"], details["maxNewTokens"]) == ("greedy", 6)


class TestBatches:
    """Padding changes neither logits nor answers, in FP32."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tuned: TinyJob) -> Any:
        seq2seq = "t5" in tuned.name
        auto_class: Any = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
        full = (tuned.artifact / "model.safetensors").exists()
        return auto_class.from_pretrained(tuned.artifact if full else tuned.root / "base").eval()

    @pytest.fixture(scope="class")
    @classmethod
    def prompts(cls, tuned: TinyJob) -> Any:
        form = Seq2SeqPrompts if "t5" in tuned.name else CausalPrompts
        return form.of_table(open_split(tuned.revision / "prepared", "test"))

    def test_give_the_logits_of_single_rows(self, model: Any, prompts: Any) -> None:
        rows = np.arange(len(prompts.references))
        with torch.no_grad():
            together, targets = prompts.score(model, rows, 0, torch.device("cpu"))
            for row in rows:
                alone, target = prompts.score(model, rows[row : row + 1], 0, torch.device("cpu"))
                assert targets[row, : target.shape[1]].tolist() == target[0].tolist()
                torch.testing.assert_close(together[row, : alone.shape[1]], alone[0], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("beams", [1, 3])
    def test_give_the_answers_of_single_rows(self, model: Any, prompts: Any, beams: int) -> None:
        rows = np.arange(len(prompts.references))
        settings = {"max_new_tokens": 6, "num_beams": beams, "do_sample": False, "pad_token_id": 0}

        def answers(batch: Any) -> list[list[int]]:
            given = prompts.inputs(batch, 0, torch.device("cpu"))
            made = prompts.generated(model.generate(**given, **settings), given)
            end = model.generation_config.eos_token_id
            return [until_end(row, [end]).tolist() for row in made.numpy()]

        assert answers(rows) == [answer for row in rows for answer in answers(rows[row : row + 1])]


@dataclass(frozen=True)
class Batch:
    """The first batch of prepared data, and its model."""

    model: Any
    features: dict[str, torch.Tensor]
    report: Any
    directory: Path

    @property
    def loss(self) -> float:
        """Of the product: without the labels as inputs."""
        inputs = {name: value for name, value in self.features.items() if name != "labels"}
        labels = self.features["labels"]
        with torch.no_grad():
            return float(loss(self.model(**inputs).logits, labels, (labels != -100).sum()))

    @property
    def own_loss(self) -> float:
        """Of the model: with the labels, from which it makes the inputs of the decoder itself."""
        names = ("input_ids", "attention_mask", "labels")
        with torch.no_grad():
            return float(self.model(**{name: self.features[name] for name in names}).loss)


def first_batch(root: Path, model: Path, task: dict[str, str], rows: list[tuple[str, str]]) -> Batch:
    data = json_lines(root / "rows.jsonl", [{"source": source, "target": target} for source, target in rows])
    uri = {"uri": data}
    dataset = {"train": uri, "validation": uri, "test": uri, "cleaning": {"deduplicate": "None"}}
    context = a_context(root, model.as_uri(), task, dataset, training={"maxSequenceLength": 32})
    _, report = prepared(context)
    directory = stored(context)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(model).eval()
    data_set = Seq2SeqDataset(open_split(directory, "train"))
    collate = Seq2SeqCollator(report.padding, shift_of(loaded))
    return Batch(loaded, collate([data_set[row] for row in range(3)]), report, directory)


class TestMarian:
    """Source and target have SentencePiece models of their own (case 11)."""

    @pytest.fixture(scope="class")
    @classmethod
    def batch(cls, tmp_path_factory: pytest.TempPathFactory) -> Batch:
        root = tmp_path_factory.mktemp("marian")
        sources, targets = zip(*PAIRS, strict=True)
        save_marian(root / "base", list(sources), list(targets))
        return first_batch(root, root / "base", TRANSLATION, PAIRS)

    def test_targets_are_pieces_of_the_target(self, batch: Batch) -> None:
        tokenizer = AutoTokenizer.from_pretrained(batch.directory / "tokenizer")
        expected = tokenizer(text_target=[target for _, target in PAIRS[:3]])["input_ids"]
        labels = [[token for token in row if token != -100] for row in batch.features["labels"].tolist()]
        assert labels == expected
        assert all(row[-1] == tokenizer.eos_token_id for row in labels)

    def test_the_decoder_starts_with_padding(self, batch: Batch) -> None:
        padding = batch.model.config.pad_token_id
        inputs, labels = batch.features["decoder_input_ids"], batch.features["labels"]
        assert set(inputs[:, 0].tolist()) == {padding}
        assert inputs[0, 1:].tolist() == labels[0, :-1].masked_fill(labels[0, :-1] == -100, padding).tolist()

    def test_loss_equals_that_of_the_model(self, batch: Batch) -> None:
        assert batch.loss == pytest.approx(batch.own_loss, abs=1e-5)


class TestNllb:
    """The languages are tokens at the start of source and target (cases 10 and 14)."""

    CODES = ("deu_Latn", "eng_Latn", "fra_Latn", "zho_Hans", "zho_Hant")

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        directory = tmp_path_factory.mktemp("nllb") / "base"
        save_nllb(directory, [text for pair in PAIRS for text in pair], cls.CODES)
        return directory

    def test_codes_are_where_the_model_expects_them(self, model: Path, tmp_path: Path) -> None:
        batch = first_batch(tmp_path, model, TRANSLATION, PAIRS)
        tokenizer = AutoTokenizer.from_pretrained(batch.directory / "tokenizer")
        source, target, decoder = (
            tokenizer.convert_ids_to_tokens([token for token in batch.features[name][0].tolist() if token >= 0])
            for name in ("input_ids", "labels", "decoder_input_ids")
        )
        assert (source[0], source[source.index("</s>")]) == ("eng_Latn", "</s>")
        assert (target[0], target[-1]) == ("deu_Latn", "</s>")
        assert decoder[:2] == ["</s>", "deu_Latn"]
        code = tokenizer.convert_tokens_to_ids("deu_Latn")
        assert batch.report.generation == {"decoder_start_token_id": 2, "forced_bos_token_id": code}

    def test_loss_equals_that_of_the_model(self, model: Path, tmp_path: Path) -> None:
        batch = first_batch(tmp_path, model, TRANSLATION, PAIRS)
        assert batch.loss == pytest.approx(batch.own_loss, abs=1e-5)

    @pytest.mark.parametrize(
        ("languages", "sentence"),
        [
            ({"targetLanguage": "de_DEU"}, "task.targetLanguage 'de_DEU' is no language of"),
            ({"targetLanguage": "zh"}, "may be zho_Hans or zho_Hant"),
            ({"sourceLanguage": None}, "so it needs task.sourceLanguage: one of deu_Latn"),
        ],
    )
    def test_other_languages_are_refused(
        self, model: Path, tmp_path: Path, languages: dict[str, str | None], sentence: str
    ) -> None:
        task = {name: value for name, value in (TRANSLATION | languages).items() if value is not None}
        rows = [{"source": source, "target": target} for source, target in PAIRS]
        dataset = {"train": {"uri": json_lines(tmp_path / "rows.jsonl", rows)}}
        failure = refused(a_context(tmp_path, model.as_uri(), task, dataset))
        assert (failure.reason, sentence in failure.message) == (Reason.BAD_CONFIGURATION, True), failure.message


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The addresses of a T5 and a Llama."""
    root = tmp_path_factory.mktemp("bases")
    save_t5(root / "t5", [FILLER, "translate English to German:", *LABELS])
    save_llama(root / "llama")
    return {name: (root / name).as_uri() for name in ("t5", "llama")}


def rows_context(root: Path, base: str, rows: list[dict[str, Any]], **task: Any) -> Any:
    dataset = {
        "train": {"uri": json_lines(root / "rows.jsonl", rows)},
        "validation": {"fraction": 0.2},
        "test": {"fraction": 0.2, "minimumExamples": 1},
    }
    generation = {"generation": {"maxNewTokens": 8}}
    return a_context(root, base, task, dataset, training={"maxSequenceLength": 40}, evaluation=generation)


@pytest.mark.parametrize("base", ["t5", "llama"])
class TestRows:
    def test_with_a_longer_source_are_truncated_and_counted(
        self, bases: dict[str, str], base: str, tmp_path: Path
    ) -> None:
        rows = [
            {"source": f"the a of {number}" * (20 if number == 3 else 1), "target": "we saw"} for number in range(12)
        ]
        context = rows_context(tmp_path, bases[base], rows, **TRANSLATION)
        _, report = prepared(context)
        assert sum(split.truncated for split in report.splits.values()) == 1
        tables = [open_split(stored(context), split) for split in report.splits]
        assert max(len(row) for table in tables for row in table["input_ids"].to_pylist()) <= 40
        # The target is whole.
        assert all(row[-1] not in (-100, 0) for table in tables for row in table["labels"].to_pylist())

    def test_with_a_longer_target_are_refused_with_their_line(
        self, bases: dict[str, str], base: str, tmp_path: Path
    ) -> None:
        rows = [{"source": f"the a {number}", "target": "we " * (60 if number == 3 else 1)} for number in range(12)]
        failure = refused(rows_context(tmp_path, bases[base], rows, **TRANSLATION))
        assert failure.reason is Reason.BAD_DATA
        assert "rows.jsonl:4: " in failure.message
        assert "training.maxSequenceLength" in failure.message

    def test_with_the_same_source_are_in_one_split(self, bases: dict[str, str], base: str, tmp_path: Path) -> None:
        rows = [{"source": f"the a {number // 3}", "target": f"we saw {number}"} for number in range(90)]
        context = rows_context(tmp_path, bases[base], rows, **TRANSLATION)
        _, report = prepared(context)
        sources = [
            source
            for split in report.splits
            for source in set(open_split(stored(context), split)["prompt"].to_pylist())
        ]
        assert sorted(sources) == sorted({row["source"] for row in rows})

    def test_that_are_not_translated_are_reported_with_their_lines(
        self, bases: dict[str, str], base: str, tmp_path: Path
    ) -> None:
        rows = [
            {"source": f"the a {number}", "target": "we saw" if number < 10 else f" The A {number}"}
            for number in range(12)
        ]
        _, report = prepared(rows_context(tmp_path, bases[base], rows, **TRANSLATION))
        assert "the target equals the source in 2 of 12 rows: rows.jsonl:11, rows.jsonl:12" in report.notes

    def test_none_of_which_is_translated_are_refused(self, bases: dict[str, str], base: str, tmp_path: Path) -> None:
        rows = [{"source": f"the a {number}", "target": f"the a {number}"} for number in range(12)]
        failure = refused(rows_context(tmp_path, bases[base], rows, **TRANSLATION))
        assert "there is nothing to learn" in failure.message

    @pytest.mark.parametrize("summary", ["", "  ", "...", None])
    def test_without_a_word_in_their_summary_are_invalid(
        self, bases: dict[str, str], base: str, tmp_path: Path, summary: str | None
    ) -> None:
        rows = [{"text": f"the a {number}", "summary": summary if number == 4 else "we saw"} for number in range(12)]
        failure = refused(rows_context(tmp_path, bases[base], rows, type="Summarization"))
        assert failure.reason is Reason.BAD_DATA
        assert "rows.jsonl:5: column 'summary'" in failure.message

    def test_by_language_are_read(self, bases: dict[str, str], base: str, tmp_path: Path) -> None:
        rows = [{"id": number, "translation": {"en": f"the a {number}", "de": "we saw"}} for number in range(12)]
        context = rows_context(tmp_path, bases[base], rows, **TRANSLATION)
        prepared(context)
        table = open_split(stored(context), "train")
        assert set(table["reference"].to_pylist()) == {"we saw"}
        assert all(prompt.startswith("the a ") for prompt in table["prompt"].to_pylist())

    def test_by_other_languages_are_refused_with_theirs(self, bases: dict[str, str], base: str, tmp_path: Path) -> None:
        rows = [{"translation": {"en": f"the a {number}", "fr": "we saw"}} for number in range(12)]
        failure = refused(rows_context(tmp_path, bases[base], rows, **TRANSLATION))
        assert "column 'translation' has no text in 'de' (languages: 'en', 'fr')" in failure.message


def test_a_decoder_sees_the_instruction_and_t5_the_prefix(bases: dict[str, str], tmp_path: Path) -> None:
    rows = [{"source": f"the a {number}", "target": "we saw"} for number in range(12)]
    seen = {}
    for name in ("t5", "llama"):
        context = rows_context(tmp_path, bases[name], rows, **TRANSLATION)
        _, report = prepared(context)
        tokenizer = AutoTokenizer.from_pretrained(stored(context) / "tokenizer")
        seen[name] = (report.prefix, len(open_split(stored(context), "train")["input_ids"].to_pylist()[0]))
        assert tokenizer.eos_token_id in report.end_tokens
    assert seen["t5"] == ("translate English to German: ", 7)
    assert seen["llama"][0] == ""


@pytest.mark.parametrize(
    ("base", "asked"), [("t5", "Translate English to German:"), ("llama", "translate the text from English to German.")]
)
def test_what_is_asked_twice_is_noted(bases: dict[str, str], base: str, asked: str, tmp_path: Path) -> None:
    rows = [{"source": f"{asked if number else ''} the a {number}", "target": "we saw"} for number in range(12)]
    _, report = prepared(rows_context(tmp_path, bases[base], rows, **TRANSLATION))
    note = next(note for note in report.notes if "which is put before each of them" in note)
    assert note.casefold().startswith(f"11 of 12 sources begin with '{asked}'".casefold())


def test_an_encoder_cannot_translate(tmp_path: Path) -> None:
    from tests.trainer.tiny_models import save_bert

    save_bert(tmp_path / "bert")
    rows = [{"source": f"the a {number}", "target": "we saw"} for number in range(12)]
    failure = refused(rows_context(tmp_path, (tmp_path / "bert").as_uri(), rows, **TRANSLATION))
    assert failure.reason is Reason.BAD_CONFIGURATION
    assert "is no model for Translation" in failure.message
