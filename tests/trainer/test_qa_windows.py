"""Windows of contexts, with the offsets of real tokenizers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.tasks.question_answering.offsets import TokenSpans
from finetune_trainer.tasks.question_answering.rows import Answer, Question
from finetune_trainer.tasks.question_answering.windows import WindowTokeniser, overlap_of
from tests.trainer.qa_fixtures import of_words, tokenizer_of

CUT = IGNORED_LABEL
WORDS = [f"c{number:02}" for number in range(100)]
LONG = " ".join(WORDS)
ASKED = "q1 q2 q3 q4 q5"

# Answers in text that tokenizers rewrite: each context, and the answer in it.
REWRITTEN = [
    ("Price on request… call Ms Weiß now.", "Ms Weiß"),
    ("The ﬁrst ﬂoor is closed; use Gate ３.", "Gate ３"),
    ("The ﬁrst ﬂoor is closed; use Gate ３.", "ﬁrst ﬂoor"),
    ("Cafe\u0301 Noir opens at nine.", "Cafe\u0301 Noir"),
    ("It is open: a Cafe\u0301", "Cafe\u0301"),
    ("See form ① or form ②.", "form ②"),
    ("The\u200b key is under the mat.", "under the mat"),
    ("Pay 5½ euros……in cash.", "in cash"),
    ("Room\u00a012 is free.", "Room\u00a012"),
    ("Size: 10\u202fmm, not 10 cm.", "10\u202fmm"),
    ("NAÏVE and naïve differ.", "naïve"),
]


def rewriting(kind: str) -> PreTrainedTokenizerFast:
    return tokenizer_of(kind, [text for text, _ in REWRITTEN])


def encoded(tokenizer: PreTrainedTokenizerFast, questions: Sequence[Question], length: int, overlap: int) -> Any:
    """The columns as lists, and the problems as texts."""
    found = WindowTokeniser(tokenizer, length, overlap).encode(questions)
    columns = {name: column.to_pylist() for name, column in found.columns.items()}
    return columns, {index: str(problem) for index, problem in found.problems.items()}


def learned(columns: dict[str, list[Any]], row: int) -> list[str]:
    """The slices of the context that the tokens of the answers stand for, window by window."""
    offsets = list(zip(columns["offsets"][row][::2], columns["offsets"][row][1::2], strict=True))
    texts = []
    for window, start in enumerate(columns["starts"][row]):
        if start in (CUT, columns["null_positions"][row][window]):
            continue
        shift = columns["context_firsts"][row][window] - columns["context_starts"][row][window]
        first, last = start + shift, columns["ends"][row][window] + shift
        texts.append(columns["context"][row][offsets[first][0] : offsets[last][1]])
    return texts


def test_every_word_of_a_long_context_is_in_a_window_and_only_whole_answers_are_learned() -> None:
    ten = " ".join(WORDS[15:25])
    questions = [
        Question(ASKED, LONG, (Answer(text, LONG.index(text)),)) for text in ("c97 c98", ten, "c02 c03", "c18 c19")
    ]
    columns, problems = encoded(of_words([ASKED, LONG]), questions, 32, 8)
    assert problems == {
        1: f"the answer '{ten}' has 10 tokens and is whole in no window, because windows overlap by 8; raise "
        "task.windowOverlap or training.maxSequenceLength"
    }
    assert columns["context_firsts"] == [[0, 16, 32, 48, 64, 80]] * 3
    assert columns["window_lengths"] == [[32, 32, 32, 32, 32, 28]] * 3
    assert columns["starts"] == [[0, 0, 0, 0, 0, 24], [9, 0, 0, 0, 0, 0], [25, 9, 0, 0, 0, 0]]
    assert columns["ends"] == [[0, 0, 0, 0, 0, 25], [10, 0, 0, 0, 0, 0], [26, 10, 0, 0, 0, 0]]
    assert learned(columns, 2) == ["c18 c19", "c18 c19"]


def test_a_window_that_cuts_an_answer_is_not_trained_as_no_answer() -> None:
    text = "c22 c23 c24 c25"
    columns, problems = encoded(of_words([ASKED, LONG]), [Question(ASKED, LONG, (Answer(text),))], 32, 8)
    assert not problems
    assert columns["starts"] == [[CUT, 13, 0, 0, 0, 0]]
    assert columns["ends"] == [[CUT, 16, 0, 0, 0, 0]]


def test_another_right_answer_in_a_window_is_learned_there() -> None:
    question = Question(ASKED, LONG, (Answer("c97"), Answer("c02")))
    columns, _ = encoded(of_words([ASKED, LONG]), [question], 32, 8)
    assert columns["starts"] == [[9, 0, 0, 0, 0, 24]]
    assert json.loads(columns["answers"][0]) == ["c97", "c02"]
    assert [LONG[slice(*columns["answer_spans"][0][at : at + 2])] for at in (0, 2)] == ["c97", "c02"]


def test_without_an_answer_every_window_has_none() -> None:
    columns, _ = encoded(of_words([ASKED, LONG]), [Question(ASKED, LONG, ())], 32, 8)
    assert columns["starts"] == columns["ends"] == columns["null_positions"] == [[0] * 6]


def test_the_overlap_is_at_most_half_of_what_the_question_leaves() -> None:
    assert [overlap_of(128, room) for room in (400, 256, 24, 1)] == [128, 128, 12, 0]
    columns, _ = encoded(of_words([ASKED, LONG]), [Question(ASKED, LONG, ())], 32, 128)
    assert np.diff(columns["context_firsts"][0]).tolist() == [12] * (len(columns["context_firsts"][0]) - 1)


def test_a_question_without_room_for_its_context_is_refused() -> None:
    _, problems = encoded(
        of_words([ASKED, LONG]), [Question(LONG, ASKED, (), id="q7"), Question(ASKED, LONG, ())], 14, 2
    )
    assert problems[0].startswith("the question leaves 0 of 14 tokens for its context, too few; shorten it")
    assert problems[0].endswith("(question q7)")
    assert problems[1].startswith("the question leaves 6 of 14 tokens")


@pytest.mark.parametrize("answer", ["c00", "c99", LONG])
def test_the_first_and_the_last_token_and_the_whole_context_can_be_the_answer(answer: str) -> None:
    columns, problems = encoded(of_words([ASKED, LONG]), [Question(ASKED, LONG, (Answer(answer),))], 256, 8)
    assert not problems
    assert learned(columns, 0) == [answer]
    assert columns["starts"][0][0] >= columns["context_starts"][0][0] > columns["null_positions"][0][0]


@pytest.mark.parametrize("kind", ["bert", "unigram", "bytes"])
@pytest.mark.parametrize(("context", "answer"), REWRITTEN)
def test_the_learned_tokens_stand_for_the_answer_as_it_was_written(kind: str, context: str, answer: str) -> None:
    columns, problems = encoded(rewriting(kind), [Question("Where?", context, (Answer(answer),))], 128, 8)
    assert not problems
    assert learned(columns, 0) == [answer]


def test_an_answer_at_which_the_tokenizer_cannot_point_is_refused() -> None:
    question = Question("What?", "Pay 10mm", (Answer("10", 4),))
    _, problems = encoded(of_words(["What? Pay 10mm"]), [question], 32, 8)
    assert problems[0].startswith("the tokenizer cannot point at the answer '10': its tokens there stand for '10mm'")


def test_punctuation_beside_an_answer_may_be_part_of_its_token() -> None:
    question = Question("What?", "Built in 1999. Yes", (Answer("1999", 9),))
    columns, problems = encoded(of_words(["What? Built in 1999. Yes"]), [question], 32, 8)
    assert not problems
    assert learned(columns, 0) == ["1999."]


def test_offsets_beside_the_characters_of_a_token_are_refused() -> None:
    tokenizer = rewriting("unigram")
    context = "Pay 5½ euros……in cash."
    encoding = tokenizer.backend_tokenizer.encode(context, add_special_tokens=False)
    spans = TokenSpans(tokenizer)
    assert spans.of(context, encoding.ids, encoding.offsets)
    beside = [(max(0, start - 1), max(0, end - 1)) for start, end in encoding.offsets]
    with pytest.raises(Exception, match=r"the tokenizer says that its token .* stands for .*, which is other text"):
        spans.of(context, encoding.ids, beside)


def test_a_question_that_the_tokenizer_drops_is_refused() -> None:
    _, problems = encoded(rewriting("bert"), [Question("\u200b", "Room 12 is free.", ())], 32, 8)
    assert problems[0].startswith("the question has no tokens")
