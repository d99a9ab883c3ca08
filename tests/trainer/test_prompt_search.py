"""A search for a prompt: all stages with a tiny model, and with a served one."""

from __future__ import annotations

import json
import re
import runpy
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from transformers import AutoModelForCausalLM

from finetune_api.failures import Reason
from finetune_api.spec import FineTuneJobSpec, MethodType
from finetune_api.stage import Stage, TrainResult
from finetune_trainer.methods import method_of
from finetune_trainer.methods.base import Attachment
from finetune_trainer.modelling.loading import LoadedModel
from finetune_trainer.modelling.tokenizer import encoding_explained, load_base_tokenizer, plain_backend
from finetune_trainer.predict import Request, predict
from finetune_trainer.prepared import read_report
from finetune_trainer.search import run as searching
from finetune_trainer.search.asked import DoesNotFit
from finetune_trainer.search.near import NearRows
from finetune_trainer.search.prompt import Prompt
from finetune_trainer.search.record import Record
from finetune_trainer.search.rendering import CausalRenderer, Fitting
from tests.endpoint_server import Endpoint, answer, endpoint, error
from tests.trainer.stages import TinyJob, write_jsonl
from tests.trainer.tiny_models import LABELS, STRONG_INIT, make_texts, save_llama

LITERAL = "the rain {text} and {x}"
CANDIDATES = ["what is it {text}", "{text} is it"]
STAGES = (Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH)


def a_job(root: Path, model: dict[str, Any], name: str = "tiny", **settings: Any) -> TinyJob:
    """A job that searches a prompt for sentences with one key word."""
    rows = [{"text": text, "label": LABELS[label]} for text, label in make_texts(90, 1)]
    test = [{"text": text, "label": LABELS[label]} for text, label in make_texts(20, 2)]
    # Three rows stand in both splits, one of them with braces.
    rows += [*test[:2], {"text": LITERAL, "label": "weather"}]
    test.append({"text": LITERAL, "label": "weather"})
    return TinyJob(
        root,
        {
            "model": model,
            "task": {"type": "TextClassification", "labels": list(LABELS)},
            "dataset": {
                "train": {"uri": write_jsonl(root / "train.jsonl", rows)},
                "validation": {"fraction": 0.3},
                "test": {"uri": write_jsonl(root / "test.jsonl", test)},
            },
            "method": {
                "type": "PromptSearch",
                "promptSearch": {"candidates": CANDIDATES, "shots": [0, 3], "trials": 5, **settings},
            },
            "evaluation": {"publishWorse": True},
            "distributed": {"gpusPerWorker": 0},
            "output": {"uri": (root / "storage").as_uri(), "keep": {"preparedData": True}},
        },
        name,
    )


def run(job: TinyJob, *stages: Stage) -> TrainResult | None:
    """Run stages; returns the result of train."""
    found = None
    for stage in stages:
        outcome = job.run(stage)
        assert outcome.code == 0, outcome.log
        if isinstance(outcome.report.result, TrainResult):
            found = outcome.report.result
    return found


def document(job: TinyJob, name: str, stage: str = "trained") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.revision / stage / name).read_text())
    return found


def split(job: TinyJob, name: str) -> list[str]:
    found: list[str] = pa.ipc.open_file(str(job.revision / "prepared" / f"{name}.arrow")).read_all()["text"].to_pylist()
    return found


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    """A published search with a model on this machine."""
    root = tmp_path_factory.mktemp("search")
    save_llama(root / "base", STRONG_INIT)
    job = a_job(root, {"uri": (root / "base").as_uri()}, shots=[3])
    run(job, *STAGES)
    return job


class TestLocal:
    def test_combinations_are_scored_once(self, local: TinyJob) -> None:
        record = document(local, "search.json")
        trials = [tuple(trial[key] for key in ("candidate", "shots", "chosen", "order")) for trial in record["trials"]]
        assert len(set(trials)) == len(trials) == 5
        assert record["end"] == "trials"
        assert record["plain"]["value"] is not None

    def test_examples_come_from_training_and_are_balanced(self, local: TinyJob) -> None:
        examples = document(local, "prompt.json")["examples"]
        assert sorted(one["answer"] for one in examples) == sorted(LABELS)
        assert {one["inputs"]["text"] for one in examples} <= set(split(local, "train"))
        near = NearRows([{"text": text} for name in ("validation", "test") for text in split(local, name)])
        assert not any(near(one["inputs"]) for one in examples)

    def test_rows_that_are_also_in_test_are_removed_and_counted(self, local: TinyJob) -> None:
        assert document(local, "data.json", "prepared")["leaked"] >= 3
        assert LITERAL not in {*split(local, "train"), *split(local, "validation")}

    def test_the_share_of_the_examples_is_measured(self, local: TinyJob) -> None:
        search = local.evaluation["details"]["search"]
        assert search["instructionAlone"] is not None
        assert local.evaluation["baseline"]["kind"] == "PlainPrompt"
        page = (local.artifact / "report.html").read_text()
        assert "the best instruction, without examples" in page
        assert "Combinations scored" in page
        assert "Learning rate" not in page

    def test_predictions_are_those_of_the_evaluation(self, local: TinyJob, tmp_path: Path) -> None:
        rows = local.predictions
        request = Request(artifact=local.artifact.as_uri(), rows=[*(row["text"] for row in rows), {"text": LITERAL}])
        found = predict(request, tmp_path).predictions
        assert [one.document["label"] for one in found[:-1]] == [row["tuned"] for row in rows]
        assert found[-1].document["text"] == LITERAL

    def test_the_program_on_the_card_gives_the_measured_answers(
        self, local: TinyJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = tmp_path / "usage.py"
        program.write_text(local.usage.replace('"path/to/base"', json.dumps(str(local.root / "base"))))
        monkeypatch.chdir(local.artifact)
        scores = runpy.run_path(str(program))["scores"]
        for row in local.predictions[:8]:
            found = scores({"text": row["text"]})
            assert max(found, key=found.get) == row["tuned"]

    def test_the_template_renders_the_prompt(self, local: TinyJob) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(local.artifact)
        template = (local.artifact / "prompt_template.jinja").read_text()
        messages = document(local, "prompt.json")["messages"]
        expected = [*messages[:-1], {"role": "user", "content": messages[-1]["content"].replace("{text}", LITERAL)}]
        settings = {"tokenize": False, "add_generation_prompt": True}
        user = [{"role": "user", "content": LITERAL}]
        found = tokenizer.apply_chat_template(user, chat_template=template, **settings)
        assert found.strip() == tokenizer.apply_chat_template(expected, **settings).strip()

    def test_no_shots_leave_no_example_anywhere(self, local: TinyJob) -> None:
        job = local.named("zero", method={"promptSearch": {"candidates": CANDIDATES, "shots": [0], "trials": 12}})
        result = run(job, Stage.TRAIN)
        assert result is not None
        assert (result.steps, result.search and result.search.distinct) == (2, 2)
        assert document(job, "prompt.json")["examples"] == []
        assert {trial["shots"] for trial in document(job, "search.json")["trials"]} == {0}

    def test_a_killed_search_goes_on_from_what_it_has_scored(self, local: TinyJob) -> None:
        job = local.named("killed", method={"promptSearch": {"candidates": CANDIDATES, "shots": [0, 3], "trials": 30}})
        with job.start(Stage.TRAIN) as running:
            running.wait_until(lambda: len(job.steps_stored) > 0 and job.steps_stored[-1] >= 4)
            running.process.kill()
        before = json.loads((job.checkpoints[-1] / "search.json").read_text())["trials"]
        with job.start(Stage.TRAIN, attempt=2) as running:
            running.wait_until(lambda: job.steps_stored[-1] >= len(before) + 3)
            running.process.send_signal(signal.SIGTERM)
            stopped = running.wait()
        assert stopped.report.error
        assert stopped.report.error.reason is Reason.STOPPED
        assert "the job resumes from them" in stopped.message
        outcome = job.run(Stage.TRAIN, attempt=3)
        assert outcome.code == 0, outcome.log
        after = document(job, "search.json")["trials"]
        assert after[: len(before)] == before
        places = [tuple(trial[key] for key in ("candidate", "shots", "chosen", "order")) for trial in after]
        assert len(set(places)) == len(places) == 30

    def test_a_stop_inside_the_tokenizer_is_no_failure_of_it(self) -> None:
        with pytest.raises(KeyboardInterrupt), encoding_explained():
            searching._stop(signal.SIGTERM, None)

    def test_the_budget_ends_the_search(self, local: TinyJob) -> None:
        spent = document(local, "search.json")
        most = spent["plain"]["tokens"] + int(2.5 * spent["trials"][0]["tokens"])
        settings = {"candidates": CANDIDATES, "shots": [3], "trials": 30}
        job = local.named("budget", method={"promptSearch": {**settings, "maxTokens": most}})
        result = run(job, Stage.TRAIN, Stage.EVALUATE)
        assert result is not None
        assert result.stopped_early
        assert result.tokens <= most
        assert any("the token budget ended the search" in note for note in job.evaluation["notes"])
        little = local.named("little", method={"promptSearch": {**settings, "maxTokens": 50}}).run(Stage.TRAIN)
        assert little.report.error
        assert little.report.error.reason is Reason.BAD_CONFIGURATION
        assert "maxTokens is 50, but the plain prompt and one combination may need" in little.message

    def test_a_budget_for_the_plain_prompt_alone_says_what_is_needed(self, local: TinyJob) -> None:
        most = document(local, "search.json")["plain"]["tokens"] + 10
        settings = {"candidates": CANDIDATES, "shots": [3], "trials": 30, "maxTokens": most}
        outcome = local.named("plain-budget", method={"promptSearch": settings}).run(Stage.TRAIN)
        needed = re.search(r"the plain prompt and one combination may need ([\d,]+) on", outcome.message)
        assert needed is not None, outcome.message
        assert int(needed[1].replace(",", "")) > most

    def test_a_prompt_that_is_longer_than_the_model_is_no_candidate(self, local: TinyJob) -> None:
        long = " ".join(["what is it"] * 20)
        settings = {"candidates": [f"{long} {{text}}"], "shots": [0, 3], "trials": 4}
        job = local.named("long", method={"promptSearch": settings})
        run(job, Stage.TRAIN)
        assert {(trial["shots"], trial["value"] is None) for trial in document(job, "search.json")["trials"]} == {
            (0, False),
            (3, True),
        }
        settings["shots"] = [3]
        outcome = local.named("longer", method={"promptSearch": settings}).run(Stage.TRAIN)
        assert "combinations fits into the model: the prompt has" in outcome.message
        settings["maxTokens"] = 50
        outcome = local.named("longer-budget", method={"promptSearch": settings}).run(Stage.TRAIN)
        assert "maxTokens is 50, but the plain prompt and one combination may need" in outcome.message

    def test_a_plain_prompt_that_does_not_fit_is_refused_before_the_search(self, local: TinyJob) -> None:
        settings = {"candidates": ["{text}"], "shots": [0], "trials": 4}
        job = local.named("plain-long", method={"promptSearch": settings}, training={"maxSequenceLength": 12})
        outcome = job.run(Stage.TRAIN)
        assert outcome.report.error
        assert outcome.report.error.reason is Reason.BAD_CONFIGURATION
        assert re.search(
            r"The plain prompt, .* does not fit into the model: the prompt has \d+ tokens .* room for \d+; "
            r"raise training.maxSequenceLength, shorten task.instruction where it is set",
            outcome.message,
        )
        assert json.loads((job.checkpoints[-1] / "search.json").read_text())["trials"] == []

    def test_a_model_without_room_proposes_nothing(self, local: TinyJob) -> None:
        method = {"promptSearch": {"propose": 2, "shots": [0], "trials": 4}}
        job = local.named("proposed", method=method, training={"maxSequenceLength": 24})
        outcome = job.run(Stage.TRAIN)
        assert outcome.report.error
        assert outcome.report.error.reason is Reason.BAD_CONFIGURATION
        assert "the question for proposals is too long, because the prompt has" in outcome.message
        assert "set method.promptSearch.candidates, or method.promptSearch.proposer" in outcome.message


class TestRoom:
    def test_a_long_text_loses_its_end(self, local: TinyJob) -> None:
        tokenizer = load_base_tokenizer(local.root / "base", "the model")
        renderer = CausalRenderer(tokenizer, read_report(local.revision / "prepared"))
        fitting, prompt = Fitting(renderer, plain_backend(tokenizer), room=9), Prompt("what is it {text} today")
        rows = [{"text": "the apple " * 30}, {"text": "iron"}]
        table, lengths, cut = fitting.fitted(prompt, rows)
        assert (lengths <= 9).all()
        assert cut == 1
        assert tokenizer.decode(table["input_ids"][0].as_py()).startswith("<user> what is it the apple the")
        with pytest.raises(DoesNotFit, match=r"the prompt has \d+ tokens without the text of a row, and there is room"):
            Fitting(renderer, plain_backend(tokenizer), room=3).fitted(prompt, rows)

    def test_the_model_stays_as_it_is(self, local: TinyJob) -> None:
        method, base = method_of(MethodType.PROMPT_SEARCH), local.root / "base"

        def load(directory: Path) -> LoadedModel:
            return LoadedModel(AutoModelForCausalLM.from_pretrained(directory), frozenset())

        untouched = load(base)
        spec = FineTuneJobSpec.model_validate(local.spec, strict=False)
        assert method.attach(untouched, Attachment(spec, "CAUSAL_LM", ())) is untouched.model
        (_, baseline), (_, tuned) = method.baseline_and_tuned(load, base, local.revision / "trained")
        assert baseline is tuned
        assert method.coverage(tuned) is None


class TestEncoder:
    def test_an_encoder_is_refused(self, local: TinyJob, tmp_path: Path) -> None:
        from tests.trainer.tiny_models import save_bert

        save_bert(tmp_path / "bert")
        outcome = a_job(tmp_path, {"uri": (tmp_path / "bert").as_uri()}).run(Stage.PREPARE)
        assert "PromptSearch is not for TextClassification with an encoder, which follows no instruction" in (
            outcome.message
        )


HIDDEN = {"fog", "snow", "frost", "wind"}
"""Words in texts that the endpoint does not answer."""


def judge(prompt: str, _: int) -> Any:
    """Follows one wording only, and answers one row with no label."""
    if not prompt.startswith("what is it"):
        return answer("I would say fruit")
    if LITERAL in prompt:
        return answer("As you like")
    words = set(prompt.split())
    if words & HIDDEN:
        return answer("", finish="content_filter")
    for label, known in (("fruit", "apple pear plum cherry"), ("metal", "iron copper zinc lead silver")):
        if words & set(known.split()):
            return answer(f" {label.upper()}.")
    return answer("weather")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TinyJob, Endpoint]]:
    """A published search with a model behind an endpoint."""
    root = tmp_path_factory.mktemp("served")
    with endpoint(judge) as server:
        job = a_job(root, {"endpoint": {"url": server.url, "model": "m"}}, propose=1)
        run(job, *STAGES)
        yield job, server


class TestServed:
    def test_the_better_wording_is_found(self, served: tuple[TinyJob, Endpoint]) -> None:
        job, _ = served
        assert document(job, "prompt.json")["instruction"] == CANDIDATES[0]
        score = job.evaluation["metrics"][0]
        assert score["baseline"] == 0.0
        assert score["interval"][0] > 0

    def test_no_label_is_wrong_and_shown(self, served: tuple[TinyJob, Endpoint]) -> None:
        row = next(row for row in served[0].predictions if row["text"] == LITERAL)
        assert (row["baseline"], row["tuned"]) == ("(no label)", "(no label)")
        rows, notes = served[0].predictions, served[0].evaluation["notes"]
        hidden = sum(bool(HIDDEN & set(row["text"].split())) for row in rows)
        assert hidden
        reason = "the reason is that the content filter of the endpoint has stopped the answer"
        unusable = "answers of the endpoint could not be used, and count as wrong"
        assert f"{hidden} of {2 * len(rows)} {unusable}; {reason}" in notes
        record = Record.read(served[0].revision / "trained")
        assert record.unusable.total()
        assert f"while searching, {record.unusable.total()} of {record.answers} {unusable}; {reason}" in notes

    def test_nothing_is_asked_twice(self, served: tuple[TinyJob, Endpoint]) -> None:
        job, server = served
        asked = len({json.dumps(one, sort_keys=True) for one in server.asked})
        assert len(server.asked) == asked
        again = TinyJob(job.root, job.spec, job.name)
        (job.revision / "trained" / "manifest.json").unlink()
        for checkpoint in job.checkpoints:
            (checkpoint / "manifest.json").unlink()
        run(again, Stage.TRAIN)
        assert len(server.asked) == asked

    def test_the_artifact_has_no_tokens(self, served: tuple[TinyJob, Endpoint]) -> None:
        names = {path.name for path in served[0].artifact.iterdir()}
        assert "prompt.json" in names
        assert not any(name.startswith(("tokenizer", "chat_template", "generation")) for name in names)
        assert "from openai import OpenAI" in served[0].usage

    def test_predictions_ask_the_endpoint(self, served: tuple[TinyJob, Endpoint], tmp_path: Path) -> None:
        found = predict(
            Request(artifact=served[0].artifact.as_uri(), rows=["we saw iron", LITERAL]), tmp_path
        ).predictions
        assert [one.document["label"] for one in found] == ["metal", None]
        assert [one.text for one in found] == ["metal", "no label"]

    def test_there_are_no_confidences(self, served: tuple[TinyJob, Endpoint], tmp_path: Path) -> None:
        request = Request(artifact=served[0].artifact.as_uri(), rows=["we saw iron"])
        assert set(predict(request, tmp_path).predictions[0].document) == {"text", "label"}
        assert not any("confidence" in row for row in served[0].predictions)

    def test_a_result_without_any_answer_is_refused(self, served: tuple[TinyJob, Endpoint]) -> None:
        def respond(prompt: str, _: int) -> Any:
            return answer("") if set(prompt.split()) & HIDDEN else answer("I think that", finish="length")

        sentence = (
            r"the most frequent reason \(\d+ times\) is that the answer is cut at the limit of tokens: raise "
            "evaluation.generation.maxNewTokens"
        )
        settings = {"candidates": ["what is it {text}"], "shots": [0], "trials": 1, "propose": None}
        with endpoint(respond) as server:
            model = {"endpoint": {"url": server.url, "model": "m"}}
            job = served[0].named("unusable", model=model, method={"promptSearch": settings})
            run(job, Stage.PREPARE, Stage.TRAIN)
            outcome = job.run(Stage.EVALUATE)
        assert outcome.report.error
        assert outcome.report.error.reason is Reason.BAD_DATA
        assert re.search(
            rf"None of the \d+ answers of the endpoint to the test rows with the best prompt can be used; {sentence}",
            outcome.message,
        )

    def test_a_refused_key_fails_the_job(self, served: tuple[TinyJob, Endpoint], tmp_path: Path) -> None:
        with endpoint(lambda *_: error(401, "wrong key")) as server:
            job = served[0].named("refused", model={"endpoint": {"url": server.url, "model": "m"}})
            job.run(Stage.PREPARE)
            outcome = job.run(Stage.TRAIN)
        assert outcome.report.error
        assert outcome.report.error.reason is Reason.PERMISSION_DENIED
