"""What a model that generates its answers reads and writes."""

from __future__ import annotations

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.tasks.question_answering.rows import Question
from finetune_trainer.tasks.question_answering.scoring import normalised

NO_ANSWER = "unanswerable"
"""What the model learns to write for a question whose context does not have the answer."""

_INSTRUCTION = (
    f"Answer the question in a few words of the context. If the context does not have the answer, write {NO_ANSWER}."
)


def instruction(spec: FineTuneJobSpec) -> str:
    """What a decoder is asked to do."""
    return spec.task.instruction or _INSTRUCTION


def prefix(spec: FineTuneJobSpec) -> str:
    """What a model of T5's family sees before the source."""
    return f"{spec.task.instruction} " if spec.task.instruction else ""


def message(question: str, context: str) -> str:
    """The source of a decoder."""
    return f"Context: {context}\n\nQuestion: {question}"


def marked(question: str, context: str) -> str:
    """The source of a model with an encoder and a decoder, as in the training of T5 (Raffel et al. 2020, D.15)."""
    return f"question: {question} context: {context}"


def target(question: Question) -> str:
    """What the model learns to write: the first of the answers.

    Raises:
        BadRow: An answer would count as no answer.
    """
    for answer in question.answers:
        if is_no_answer(answer.text):
            raise BadRow(
                f"the answer '{answer.text}' is what the model learns to write where there is no answer; remove it, or "
                "write another one"
            )
    return question.answers[0].text.strip() if question.answers else NO_ANSWER


def is_no_answer(text: str) -> bool:
    """Whether a generated text says that there is no answer."""
    return normalised(text) in ("", NO_ANSWER)
