"""A model behind an endpoint that answers prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.endpoint.client import Client
from finetune_trainer.endpoint.labels import label_of
from finetune_trainer.endpoint.messages import Outcome, Question, estimated_tokens
from finetune_trainer.endpoint.stopping import StopRequest
from finetune_trainer.endpoint.store import AnswerStore
from finetune_trainer.endpoint.usable import verdict
from finetune_trainer.search.asked import Cost, Inputs, OnExamples, Spent
from finetune_trainer.search.prompt import Prompt

FIELD = "model.endpoint"
_DRAWN = {"temperature": 0.9, "max_tokens": 256}


class ServedModel:
    """Implements `finetune_trainer.search.asked.Asked`.

    A label is right if the answer is that label, up to case, white space and a full stop. An answer that cannot be
    used, such as a refusal, is no label, or an empty text.
    """

    def __init__(self, spec: FineTuneJobSpec, client: Client, alive: OnExamples) -> None:
        """``alive`` is called with 0 while the model writes."""
        self._spec = spec
        self._client = client
        self._alive = alive
        generation = spec.evaluation.generation
        self._parameters: Mapping[str, Any] = {"temperature": 0, "max_tokens": generation.max_new_tokens}
        self.unusable = 0
        """Answers that could not be used."""
        self._on_examples = alive
        self._reported = 0
        """Examples of the present questions that were reported."""

    def on_asked(self, done: int) -> None:
        """Report that the endpoint has answered ``done`` of the present questions."""
        new, self._reported = done - self._reported, done
        self._on_examples(new)

    @property
    def spent(self) -> Spent:
        usage = self._client.usage
        return Spent(usage.charged_requests, usage.tokens)

    def most(self, prompt: Prompt, inputs: Sequence[Inputs], labels: Sequence[str]) -> Cost:
        questions = self._questions(prompt, inputs)
        longest = self._spec.evaluation.generation.max_new_tokens
        written = max(map(estimated_tokens, labels)) if labels else longest
        return Cost(sum(one.estimated_tokens + written for one in questions))

    def ranked(
        self, prompt: Prompt, inputs: Sequence[Inputs], labels: Sequence[str], on_examples: OnExamples
    ) -> tuple[NDArray[Any], Cost]:
        answers, cost = self.answers(prompt, inputs, on_examples)
        found = np.zeros((len(inputs), len(labels)))
        for row, answer in enumerate(answers):
            place = label_of(answer, labels)
            if place is not None:
                found[row, place] = 1.0
        return found, cost

    def answers(self, prompt: Prompt, inputs: Sequence[Inputs], on_examples: OnExamples) -> tuple[list[str], Cost]:
        return self._asked(self._questions(prompt, inputs), on_examples)

    def written(self, message: str, number: int) -> tuple[str, Cost]:
        question = Question([{"role": "user", "content": message}], {**_DRAWN, "seed": number})
        answers, cost = self._asked([question], lambda _: self._alive(0))
        return answers[0], cost

    def _asked(self, questions: Sequence[Question], on_examples: OnExamples) -> tuple[list[str], Cost]:
        self._on_examples, self._reported = on_examples, 0
        outcomes = self._client.ask(questions)
        on_examples(len(questions) - self._reported)
        verdicts = [verdict(outcome) for outcome in outcomes]
        self.unusable += sum(one.text is None for one in verdicts)
        return [one.text or "" for one in verdicts], Cost(sum(map(_tokens, outcomes)))

    def _questions(self, prompt: Prompt, inputs: Sequence[Inputs]) -> list[Question]:
        return [Question(prompt.messages(one), self._parameters) for one in inputs]


@contextmanager
def served(spec: FineTuneJobSpec, answers: str | None, on_progress: OnExamples, spent: Spent) -> Iterator[ServedModel]:
    """The model behind the endpoint of ``spec``. SIGTERM ends the asking where answers are kept.

    Args:
        spec: The spec of the job.
        answers: Directory in which answers are kept; None if they are not needed again.
        on_progress: Called with 0 about once a second while the model writes candidates.
        spent: What an earlier stage or attempt has spent of the budget of the endpoint.
    """
    assert spec.model.endpoint is not None

    def on_asked(done: int) -> None:
        model.on_asked(done)

    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest()) if answers else None
        uri = answers or Path(stack.enter_context(TemporaryDirectory())).as_uri()
        store = stack.enter_context(AnswerStore(uri))
        client = stack.enter_context(Client(spec.model.endpoint, FIELD, store, on_progress=on_asked, stop=stop))
        client.usage.requests += spent.requests
        client.usage.prompt_tokens += spent.tokens
        model = ServedModel(spec, client, on_progress)
        yield model


def _tokens(outcome: Outcome) -> int:
    return getattr(outcome, "tokens", 0)
