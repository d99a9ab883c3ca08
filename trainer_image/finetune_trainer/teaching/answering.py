"""Who answers for a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.endpoint.client import Client
from finetune_trainer.endpoint.messages import Outcome, Question
from finetune_trainer.endpoint.stopping import StopRequest
from finetune_trainer.endpoint.store import AnswerStore
from finetune_trainer.endpoint.usage import Usage
from finetune_trainer.prepare.rows import Example

FIELD = "distillation.teacher.endpoint"

Enough = Callable[[Outcome, int], bool]
"""Called with each outcome as it arrives, and the number of prompts that have it; once it returns True, nothing more is
asked."""


@dataclass(frozen=True)
class Asked:
    """The prompt of a row."""

    example: Example
    """The row as the model of the job reads it, with a placeholder for the answer."""
    question: Question


class Answering(Protocol):
    """Answers for a teacher."""

    @property
    def usage(self) -> Usage:
        """What its answers have cost."""

    def ask(self, prompts: Sequence[Asked], later: int, enough: Enough) -> list[Outcome]:
        """The outcome of each prompt; equal ones are answered once, and those in the store not at all.

        Args:
            prompts: The prompts.
            later: Prompts of later calls.
            enough: When to stop. The outcome of the other prompts is `NOT_ASKED`.

        Raises:
            StageFailure: The teacher cannot answer; the failures of storage.
        """


OpenAnswering = Callable[[AnswerStore, Callable[[int], None]], AbstractContextManager[Answering]]
"""Opens what answers, with a store, and a function that is called with the number of prompts of a call that are done;
with 0 as a sign of life."""


class EndpointAnswering:
    """Implements `Answering`: an endpoint answers.

    Args:
        client: Its client.
        parameters: Of each request, besides those of its question.
    """

    def __init__(self, client: Client, parameters: Mapping[str, float]) -> None:
        self._client = client
        self._parameters = parameters

    @property
    def usage(self) -> Usage:
        return self._client.usage

    def ask(self, prompts: Sequence[Asked], later: int, enough: Enough) -> list[Outcome]:
        questions = [one.question for one in prompts]
        if self._parameters:
            questions = [replace(one, parameters={**one.parameters, **self._parameters}) for one in questions]
        return self._client.ask(questions, later, enough)


def endpoint_answering(spec: FineTuneJobSpec) -> OpenAnswering | None:
    """Opens the endpoint that answers for the teacher; None if the job has no such endpoint."""
    teacher = spec.distillation.teacher if spec.distillation else None
    if teacher is None or (endpoint := teacher.endpoint) is None:
        return None

    @contextmanager
    def opened(store: AnswerStore, on_progress: Callable[[int], None]) -> Iterator[Answering]:
        with StopRequest() as stop:
            with Client(endpoint, FIELD, store, on_progress=on_progress, stop=stop) as client:
                yield EndpointAnswering(client, teacher.parameters)
            store.flush()  # Before SIGTERM ends this process at once again.

    return opened
