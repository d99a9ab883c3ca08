"""What the answers of an endpoint cost, and the budget that limits it."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import PricesSpec
from finetune_trainer.endpoint.messages import Answer


@dataclass
class Usage:
    """Counts of what was asked."""

    answers: int = 0
    """Answers that were used, whether now or earlier."""
    kept: int = 0
    """Those of them that were in the store already."""
    requests: int = 0
    """Requests that were sent now, retries included."""
    retries: int = 0
    prompt_tokens: int = 0
    """Of all answers, those that were in the store included."""
    completion_tokens: int = 0
    estimated: int = 0
    """Answers whose tokens the endpoint did not count."""
    answer_seconds: float = 0.0
    """Sum of the seconds of all answers, several of which arrive at the same time."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def charged_requests(self) -> int:
        """The requests that count for the budget: those sent now, and one for each answer that was kept."""
        return self.requests + self.kept

    def cost(self, prices: PricesSpec) -> float:
        """What the tokens of the answers cost, those that were kept included, in the currency of ``prices``."""
        return (self.prompt_tokens * prices.input + self.completion_tokens * prices.output) / 1e6

    def add(self, answer: Answer, *, kept: bool) -> None:
        self.answers += 1
        self.kept += kept
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens
        self.estimated += answer.estimated
        self.answer_seconds += answer.seconds


@dataclass(frozen=True)
class Budget:
    """The most that the answers of a job may cost. An answer that was kept counts too, so that a job that starts again
    does not get a second budget."""

    field: str
    """The part of the spec that sets it, such as ``distillation.teacher.endpoint``."""
    requests: int | None = None
    tokens: int | None = None

    def check(self, usage: Usage, open_questions: int) -> None:
        """Check that one more request is within the budget.

        Args:
            usage: What was spent.
            open_questions: Questions that have no answer yet.

        Raises:
            StageFailure: BudgetExceeded.
        """
        for name, spent, most in (
            ("maxRequests", usage.charged_requests, self.requests),
            ("maxTokens", usage.tokens, self.tokens),
        ):
            if most is not None and spent >= most:
                what = "requests" if name == "maxRequests" else "tokens"
                raise StageFailure(
                    Reason.BUDGET_EXCEEDED,
                    f"The budget of {most:,} {what} ({self.field}.{name}) is used up, and {open_questions:,} questions "
                    "have no answer yet; raise it and apply the job again, which asks only these",
                )
