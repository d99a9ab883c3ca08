"""Questions that a teacher answers."""

from __future__ import annotations

from dataclasses import replace

from finetune_trainer.endpoint import messages
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.tasks.question_answering.generative.texts import NO_ANSWER, is_no_answer, message
from finetune_trainer.tasks.question_answering.positions import place, shown
from finetune_trainer.tasks.question_answering.rows import Answer, Question, named

EXTRACT = (
    "Answer the question with a few words of the context, copied as they stand there, and nothing else. If the context "
    f"does not have the answer, write {NO_ANSWER}."
)
"""What the teacher of an encoder is asked, which itself reads no instruction."""
_QUOTES = "\"'`“”‘’«»"


def asked(instruction: str, question: str, context: str) -> messages.Question:
    """What the teacher is asked."""
    return messages.Question([{"role": "user", "content": f"{instruction}\n\n{message(question, context)}"}])


def with_answer(question: Question, answer: str) -> Question:
    """``question`` with the answer of a teacher, or without any if it says that there is none."""
    text = answer.strip()
    return replace(question, answers=() if is_no_answer(text) else (Answer(text),))


def with_extract(question: Question, answer: str) -> Question:
    """Likewise, with an answer that stands in the context, apart from a full stop or quotes around it.

    Raises:
        BadRow: It does not stand there.
    """
    found = with_answer(question, answer)
    if not found.answers:
        return found
    text = found.answers[0].text
    bare = text.removesuffix(".")
    for one in dict.fromkeys((text, bare, bare.strip(_QUOTES).strip(), text.strip(f"{_QUOTES} .,"))):
        candidate = (Answer(one),)
        try:
            place(question.context, candidate)
        except BadRow:
            continue
        return replace(question, answers=candidate)
    raise named(BadRow(f"the answer does not stand in the context word for word ({shown(text)})"), question.id)
