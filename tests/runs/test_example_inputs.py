"""The data that the examples are made of."""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import make_inputs
from finetune_trainer.prepare.directories import split_of
from inputs import (
    chat,
    classifiers,
    docstrings,
    modules,
    names,
    phrases,
    pretraining,
    questions,
    small_causal,
    small_quiz,
    small_seq2seq,
    summaries,
)
from inputs.docstrings import Docstring, Example
from inputs.names import Name


@pytest.fixture(scope="module")
def found() -> list[Name]:
    """The names of all languages."""
    return names.clean(names.read_names())


def test_there_are_enough_names_in_every_language(found: list[Name]) -> None:
    train, test = names.split(found, make_inputs.TRAIN_NAMES, make_inputs.TEST_NAMES)
    assert (len(train), len(test)) == (make_inputs.TRAIN_NAMES, make_inputs.TEST_NAMES)
    for part, at_least in ((train, 150), (test, 20)):
        counts = Counter(name.language for name in part)
        assert set(counts) == set(names.LANGUAGES.values())
        assert min(counts.values()) >= at_least


def test_a_share_of_labels_is_wrong(found: list[Name]) -> None:
    wrong = names.mislabelled(found[:1000], 0.35)
    assert [name.text for name in wrong] == [name.text for name in found[:1000]]
    different = sum(name.language != right.language for name, right in zip(wrong, found, strict=False))
    assert 300 < different < 400
    assert wrong == names.mislabelled(found[:1000], 0.35)


def test_no_thing_is_named_for_training_and_for_test(found: list[Name]) -> None:
    train, test = names.split(found, len(found), len(found))
    assert len(train) + len(test) == len(found)
    assert {name.thing for name in train}.isdisjoint(name.thing for name in test)
    assert {name.text.casefold() for name in train}.isdisjoint(name.text.casefold() for name in test)


def test_names_that_tell_no_language_are_left_out() -> None:
    rows = [
        Name("Österreich", "German", "territories/AT"),
        Name("österreich", "German", "languages/at"),
        Name("Venezuela", "Spanish", "territories/VE"),
        Name("venezuela", "Italian", "territories/VE"),
        Name("Perù", "Italian", "territories/PE"),
        Name("Zloty (1950–1995)", "German", "currencies/PLZ"),
    ]
    assert names.clean(rows) == names.clean(rows[::-1]) == [min(rows[:2])]


def test_shared_names_have_all_their_languages_and_no_thing_in_both_splits() -> None:
    rows = [
        Name("Venezuela", "Spanish", "territories/VE"),
        Name("venezuela", "Italian", "territories/VE"),
        Name("Pérou", "French", "territories/PE"),
        Name("Peru", "German", "territories/PE"),
        Name("Laos", "Spanish", "territories/LA"),
    ]
    found = names.shared(rows)
    assert found == names.shared(rows[::-1])
    assert {name.text: name.languages for name in found} == {
        "Venezuela": ("Italian", "Spanish"),
        "Pérou": ("French",),
    }
    train, test = names.split_shared(
        names.shared(names.read_names()), make_inputs.TRAIN_SHARED_NAMES, make_inputs.TEST_SHARED_NAMES
    )
    assert (len(train), len(test)) == (make_inputs.TRAIN_SHARED_NAMES, make_inputs.TEST_SHARED_NAMES)
    things = [{thing for name in part for thing in name.things} for part in (train, test)]
    assert things[0].isdisjoint(things[1])
    for part in (train, test):
        assert {len(name.languages) for name in part} == {1, 2, 3, 4}
        assert {language for name in part for language in name.languages} == set(names.ROMANCE)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Labelled docstrings of a few large packages; the whole library takes too long here."""
    modules = {"asyncio", "email", "importlib", "tkinter", "turtle", "xml", "urllib", "http", "logging", "datetime"}
    return docstrings.clean(docstrings.read_docstrings(only=modules))


def test_there_are_enough_docstrings_of_many_topics(examples: list[Example]) -> None:
    assert len(examples) > 1500
    assert len({example.topic for example in examples}) >= 7
    assert all(docstrings.MIN_CHARACTERS <= len(example.text) <= docstrings.MAX_CHARACTERS for example in examples)


def test_split_puts_no_docstring_and_no_near_duplicate_on_both_sides(examples: list[Example]) -> None:
    train, test = docstrings.split(examples, 1000, 300)
    assert (len(train), len(test)) == (1000, 300)
    groups = docstrings.near_duplicates([example.prose for example in train + test])
    assert set(groups[:1000]).isdisjoint(groups[1000:])


def test_split_is_the_same_for_examples_in_any_order(examples: list[Example]) -> None:
    assert docstrings.split(examples, 500, 100) == docstrings.split(examples[::-1], 500, 100)


def test_source_files_of_a_package_are_in_one_split_whatever_their_names() -> None:
    train, test = modules.split(modules.read_sources(), make_inputs.TRAIN_MODULES, make_inputs.TEST_MODULES)
    assert (len(train), len(test)) == (make_inputs.TRAIN_MODULES, make_inputs.TEST_MODULES)
    assert {source.package for source in train}.isdisjoint(source.package for source in test)
    assert len({source.name for source in train + test}) == len(train + test)
    assert {split_of(f"{source.name}.txt", "data") for source in train + test} == {None}


def test_clean_drops_repeats_and_docstrings_of_several_topics() -> None:
    found = [
        Docstring("asyncio", "wait(task)", "Wait until the task is done."),
        Docstring("asyncio", "join()", "Wait until\nthe task is done!"),
        Docstring("threading", "name()", "Return the name of this thing."),
        Docstring("tkinter", "name()", "Return the name of this thing."),
        Docstring("no_such_module", "", "Nobody knows what this is about."),
        Docstring("email", "", "Too short."),
    ]
    assert [(example.text, example.topic) for example in docstrings.clean(found)] == [
        ("wait(task): Wait until the task is done.", "async")
    ]


def test_near_duplicates_share_a_group() -> None:
    texts = [
        "Return the message that has the given key, or raise KeyError.",
        "Remove the message that has the given key, or raise KeyError.",
        "Draw a circle with the given radius.",
    ]
    first, second, third = docstrings.near_duplicates(texts)
    assert first == second != third


def test_conversations_are_chats_that_end_with_an_answer() -> None:
    for conversation in chat.conversations(300, for_test=False):
        messages = conversation["messages"]
        roles = [message["role"] for message in messages]
        assert roles[0] in {"system", "user"}
        turns = roles[roles[0] == "system" :]
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert all(message["content"].strip() == message["content"] != "" for message in messages)


def test_conversations_vary_in_length_and_some_have_a_system_message() -> None:
    made = [conversation["messages"] for conversation in chat.conversations(300, for_test=False)]
    turns = Counter(sum(message["role"] == "user" for message in messages) for messages in made)
    assert set(turns) == {1, 2, 3, 8}
    assert 60 < sum(messages[0]["role"] == "system" for messages in made) < 140


def test_conversations_are_the_same_each_time_and_shared_by_no_split() -> None:
    def questions(for_test: bool) -> list[str]:
        made = chat.conversations(300, for_test=for_test)
        return [message["content"] for row in made for message in row["messages"] if message["role"] == "user"]

    assert questions(for_test=False) == questions(for_test=False)
    about_test, about_train = ({_subject(text) for text in questions(side)} for side in (True, False))
    assert not about_test & about_train


def _subject(question: str) -> str:
    """The day, figure or country that is asked about, whatever the language."""
    figures = [word.strip(".") for word in question.split() if word[0].isdigit()]
    return figures[0] if figures else question.split(" in ", maxsplit=1)[0].strip(".")


def test_answers_follow_the_language() -> None:
    made = chat.conversations(2000, for_test=False)
    pairs = {
        (question["content"], answer["content"])
        for row in made
        for question, answer in zip(row["messages"], row["messages"][1:], strict=False)
    }
    months = {answer for question, answer in pairs if question.startswith("Name the month") and "German" in question}
    assert {"Januar", "März", "Dezember"} <= months


def test_reading_has_prose_facts_and_a_little_chat() -> None:
    texts = small_causal.reading(["Return the sum. Missing values are skipped."] * 200)
    assert texts.count("Return the sum. Missing values are skipped.") == 200
    assert any(text.startswith("German: ") for text in texts)
    assert 30 < sum(small_causal.ASSISTANT in text for text in texts) < 140


def test_a_summary_is_no_part_of_its_text() -> None:
    made = summaries.clean(docstrings.read_docstrings(only={"asyncio", "email", "tkinter", "logging"}))
    assert len(made) > 200
    assert not [example for example in made if example.summary.rstrip(".").casefold() in example.text.casefold()]
    assert len({example.summary.casefold() for example in made}) == len(made)


def test_docstrings_become_summaries_and_texts() -> None:
    found = [
        Docstring(
            "asyncio", "wait(task)", "Wait until the task\nis done.  It waits at most for ten or\ntwenty seconds."
        ),
        Docstring("asyncio", "wait()", "Wait until the task is done. It is an error to call this more than once."),
        Docstring(
            "asyncio", "stop()", "Stop the whole loop. Do not call this to stop the whole loop twice in one task."
        ),
        Docstring("asyncio", "one()", "This docstring has a single sentence."),
        Docstring("asyncio", "", "This is about the module. It has no signature and is therefore left out here."),
    ]
    assert [(example.text, example.summary) for example in summaries.clean(found)] == [
        ("wait(task): It waits at most for ten or twenty seconds.", "Wait until the task is done.")
    ]


def test_no_docstring_is_summarized_for_training_and_for_test() -> None:
    made = summaries.clean(docstrings.read_docstrings(only={"asyncio", "email", "tkinter", "logging", "unittest"}))
    train, test = docstrings.split(made, 300, 60)
    groups = docstrings.near_duplicates([example.prose for example in train + test])
    assert set(groups[: len(train)]).isdisjoint(groups[len(train) :])


def test_phrases_are_the_same_each_time_and_shared_by_no_split() -> None:
    train, test = (list(phrases.phrases(600, for_test=side)) for side in (False, True))
    assert train == list(phrases.phrases(600, for_test=False))
    assert {phrase.source for phrase in train}.isdisjoint(phrase.source for phrase in test)
    assert len({phrase.source for phrase in train}) == 600
    assert not [phrase for phrase in train + test if phrase.source == phrase.target]


def test_a_phrase_says_the_same_in_both_languages() -> None:
    made = {phrase.source: phrase.target for phrase in phrases.phrases(3000, for_test=False)}
    years = [(source, target) for source, target in made.items() if source.startswith("Monday")]
    assert years
    assert all(target.startswith("Montag") and source[-4:] == target[-4:] for source, target in years)


def test_the_seq2seq_model_reads_phrases_apart_from_their_translations() -> None:
    pairs = [(f"{number} days", f"{number} Tage") for number in range(200)]
    texts = small_seq2seq.reading(["Return the sum."], pairs)
    assert sorted(texts) == sorted(["Return the sum.", *(text for pair in pairs for text in pair)])
    together = [pair for pair in itertools.pairwise(texts) if pair in pairs]
    assert len(together) < 10


def test_masked_spans_are_a_share_of_the_tokens_and_the_last_token_stays() -> None:
    recipe, draw, tokens = small_seq2seq.Recipe(), random.Random(3), list(range(1, 1001))
    found = small_seq2seq.masked(tokens, 0, recipe, draw)
    kept = [token for token in found if token]
    assert kept == sorted(set(kept))
    assert kept[-1] == 1000
    assert recipe.masked / 2 < 1 - len(kept) / 1000 < recipe.masked * 1.5
    assert found.count(0) < 1000 - len(kept)


def test_a_model_is_made_once_for_the_same_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[Path] = []

    def make(into: Path) -> None:
        into.mkdir()
        (into / "model.safetensors").write_bytes(b"weights")
        made.append(into)

    first, again, other = (pretraining.cached_model("small", recipe, make, lambda _: None) for recipe in (1, 1, 2))
    assert first == again != other
    assert len(made) == 2
    assert (first / "model.safetensors").exists()


def test_small_models_are_made_with_their_tokenizers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tiny: dict[str, int] = {"vocabulary": 300, "width": 16, "layers": 1, "heads": 2, "feed_forward": 16, "context": 32}
    texts = ["Return the sum of all values in the list, or 0 when it is empty."] * 20
    for module, family in ((small_causal, AutoModelForCausalLM), (small_seq2seq, AutoModelForSeq2SeqLM)):
        recipe = module.Recipe(**tiny, sequence=16, batch=2, steps=2)
        made = module.cached_model(texts, recipe, lambda _: None)
        tokenizer, model = AutoTokenizer.from_pretrained(made), family.from_pretrained(made)
        tokens = tokenizer("Return 0", return_tensors="pt")["input_ids"]
        assert (int(tokens[0, -1]) == tokenizer.eos_token_id) == (module is small_seq2seq)
        assert model.generate(tokens, max_new_tokens=2, do_sample=False).shape[1] >= 2


def test_a_teacher_is_trained_and_its_student_has_its_first_layers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    from tests.trainer.tiny_models import save_bert

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    encoder = tmp_path / "encoder"
    known = save_bert(encoder).get_vocab()
    rows = [Name("rain and snow", "weather", "a"), Name("iron and zinc", "metal", "b")] * 6
    recipe = classifiers.Recipe(epochs=2, batch=4)
    teacher = classifiers.trained_classifier(encoder, rows, recipe, lambda _: None)
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    assert model.config.id2label == {0: "metal", 1: "weather"}
    student = classifiers.first_layers(encoder, 1, lambda _: None)
    assert AutoConfig.from_pretrained(student).num_hidden_layers == 1
    assert [AutoTokenizer.from_pretrained(one).get_vocab() for one in (teacher, student)] == [known, known]


def test_muon_in_single_precision_is_torchs() -> None:
    import torch

    from inputs.muon import Muon

    torch.manual_seed(3)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((24, 8), (8, 24), (24, 8))]
    theirs = [torch.nn.Parameter(matrix.detach().clone()) for matrix in ours]
    optimizers = Muon(ours, lr=0.02, weight_decay=0.01), torch.optim.Muon(theirs, lr=0.02, weight_decay=0.01)
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=2e-3)


def test_rows_are_written_as_json_lines(tmp_path: Path) -> None:
    make_inputs.write_jsonl(
        tmp_path / "new" / "rows.jsonl", [{"text": "Größe", "topic": "a"}, {"text": "b", "topic": "a"}]
    )
    lines = (tmp_path / "new" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["Größe", "b"]


def test_a_link_replaces_what_was_there(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for directory in (old, new):
        directory.mkdir()
        (directory / "config.json").write_text(directory.name)
    for target in (old, new):
        make_inputs.link(tmp_path / "models" / "m", target)
    assert (tmp_path / "models" / "m" / "config.json").read_text() == "new"
    assert (old / "config.json").exists()


def test_answers_stand_in_their_context() -> None:
    articles = list(questions.articles())
    assert len(articles) > 200
    asked = [(p["context"], q) for article in articles for p in article["paragraphs"] for q in p["qas"]]
    for context, question in asked:
        assert question["is_impossible"] != bool(question["answers"])
        for answer in question["answers"]:
            start = answer["answer_start"]
            assert context[start : start + len(answer["text"])] == answer["text"]
    share = sum(question["is_impossible"] for _, question in asked) / len(asked)
    assert 0.2 < share < 0.3


def test_no_thing_is_asked_about_in_both_splits() -> None:
    train, test = questions.split(questions.articles(), 300, 60)
    assert len(train) > 150
    assert len(test) > 20
    assert not {article["title"] for article in train} & {article["title"] for article in test}


def test_quizzes_are_in_one_wording_each_and_have_no_name_of_the_search(found: list[Name]) -> None:
    known, test = names.split(found, make_inputs.TRAIN_NAMES, make_inputs.TEST_NAMES)
    read, searched = known[: make_inputs.READ_NAMES], {one.text for one in (*known[make_inputs.READ_NAMES :], *test)}
    texts = list(small_quiz.quizzes(read, 500, seed=3))
    asked = [part for text in texts for part in text.split("\n\n")[::2]]
    starts = [wording.split("{name}") for wording in small_quiz.WORDINGS]
    for text in texts:
        questions_of = text.split("\n\n")[::2]
        assert any(all(one.startswith(a) and one.endswith(b) for one in questions_of) for a, b in starts)
    told = {one.removeprefix(a).removesuffix(b) for one in asked for a, b in starts}
    assert not told & searched
