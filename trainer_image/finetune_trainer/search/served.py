"""A model behind an endpoint that answers prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_api.secrets import SecretRole
from finetune_api.spec import EndpointSpec, FineTuneJobSpec
from finetune_trainer.endpoint.client import Client
from finetune_trainer.endpoint.labels import label_of
from finetune_trainer.endpoint.messages import Outcome, Question
from finetune_trainer.endpoint.stopping import StopRequest
from finetune_trainer.endpoint.store import AnswerStore
from finetune_trainer.endpoint.usable import verdict
from finetune_trainer.search.asked import Cost, Inputs, OnExamples, Spent
from finetune_trainer.search.prompt import Prompt

FIELD = "model.endpoint"
PROPOSER = "method.promptSearch.proposer"
_DRAWN = {"temperature": 0.9, "max_tokens": 1024}
"""Parameters of a proposal. A model that thinks before it answers needs more tokens than the proposal has."""


class ServedModel:
    """Implements `finetune_trainer.search.asked.Asked`.

    A label is right if the answer is that label, up to case, white space and a full stop. An answer that cannot be
    used, such as a refusal, is no label, or an empty text.
    """

    def __init__(self, spec: FineTuneJobSpec, client: Client, alive: OnExamples, *, keeps_space: bool = False) -> None:
        """
        Args:
            spec: The spec of the job.
            client: Asks the endpoint.
            alive: Called with 0 while the model writes.
            keeps_space: Whether white space around an answer is content.
        """
        self._spec = spec
        self._keeps_space = keeps_space
        self._client = client
        self._alive = alive
        generation = spec.evaluation.generation
        self._parameters: Mapping[str, Any] = {"temperature": 0, "max_tokens": generation.max_new_tokens}
        self._on_examples = alive
        self._reported = 0
        """Examples of the present questions that were reported."""

    def on_asked(self, done: int) -> None:
        """Report that the endpoint has answered ``done`` of the present questions."""
        new, self._reported = done - self._reported, done
        self._on_examples(new)

    @property
    def stored_as(self) -> dict[str, Any]:
        return {}

    @property
    def spent(self) -> Spent:
        usage = self._client.usage
        return Spent(usage.charged_requests, usage.tokens)

    def most(self, prompt: Prompt, inputs: Sequence[Inputs], labels: Sequence[str]) -> Cost:
        questions = self._questions(prompt, inputs)
        # A request for a label may get as many tokens as any other.
        written = self._spec.evaluation.generation.max_new_tokens
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

    def written(
        self, prompt: Prompt, inputs: Sequence[Inputs], seed: int, on_examples: OnExamples
    ) -> tuple[list[str], Cost]:
        parameters = [{**_DRAWN, "seed": seed + number} for number in range(len(inputs))]
        questions = [Question(prompt.messages(one), of_one) for one, of_one in zip(inputs, parameters, strict=True)]
        return self._asked(questions, lambda _: on_examples(0))

    def _asked(self, questions: Sequence[Question], on_examples: OnExamples) -> tuple[list[str], Cost]:
        self._on_examples, self._reported = on_examples, 0
        outcomes = self._client.ask(questions)
        on_examples(len(questions) - self._reported)
        verdicts = [verdict(outcome) for outcome in outcomes]
        unusable = Counter(one.problem for one in verdicts if one.text is None)
        texts = [one.written if self._keeps_space else one.text for one in verdicts]
        return [text or "" for text in texts], Cost(sum(map(_tokens, outcomes)), unusable=unusable)

    def _questions(self, prompt: Prompt, inputs: Sequence[Inputs]) -> list[Question]:
        return [Question(prompt.messages(one), self._parameters) for one in inputs]


@contextmanager
def served(
    spec: FineTuneJobSpec, answers: str | None, on_progress: OnExamples, spent: Spent, *, keeps_space: bool = False
) -> Iterator[ServedModel]:
    """The model behind the endpoint of ``spec``. SIGTERM ends the asking where answers are kept.

    Args:
        spec: The spec of the job.
        answers: Directory in which answers are kept; None if they are not needed again.
        on_progress: Called with 0 about once a second while the model writes candidates.
        spent: What an earlier stage or attempt has spent of the budget of the endpoint.
        keeps_space: Whether white space around an answer is content.
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
        model = ServedModel(spec, client, on_progress, keeps_space=keeps_space)
        yield model


@contextmanager
def served_proposer(
    spec: FineTuneJobSpec, proposer: EndpointSpec, answers: str, on_progress: OnExamples
) -> Iterator[ServedModel]:
    """The model behind the endpoint ``proposer``, which writes instructions; otherwise as `served`."""
    with (
        StopRequest() as stop,
        AnswerStore(answers) as store,
        Client(
            proposer,
            PROPOSER,
            store,
            role=SecretRole.PROPOSER,
            on_progress=lambda _: on_progress(0),
            stop=stop,
        ) as client,
    ):
        yield ServedModel(spec, client, on_progress)


def _tokens(outcome: Outcome) -> int:
    return getattr(outcome, "tokens", 0)
