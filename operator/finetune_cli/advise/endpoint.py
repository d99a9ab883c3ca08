"""What is advised for a model behind an endpoint, which only a search for a prompt can use. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.method_settings import PromptSearchSpec
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import PrepareResult
from finetune_cli.advise.models import ModelScore, best_first
from finetune_cli.advise.report import model_document, models_lines, wrapped

_DRAWS = 3
"""Requests at most for each proposed instruction."""


@dataclass(frozen=True)
class EndpointAdvice:
    """How much a search asks an endpoint at most."""

    spec: FineTuneJobSpec
    search: PromptSearchSpec
    examples: Mapping[str, int]
    """Rows of each split."""
    models: Sequence[ModelScore] = ()

    @classmethod
    def of(cls, spec: FineTuneJobSpec, prepared: PrepareResult, models: Sequence[ModelScore]) -> EndpointAdvice:
        """The advice for a job with ``model.endpoint``."""
        search = spec.method.settings
        assert isinstance(search, PromptSearchSpec)  # A rule: no other method is for an endpoint.
        return cls(spec, search, prepared.examples, models)

    @property
    def scored(self) -> int:
        """Validation rows that each combination is scored on."""
        return min(self.search.examples, self.examples.get("validation", 0))

    @property
    def searching(self) -> int:
        """Requests of the search: for proposals, the plain prompt, the combinations and the best instruction alone."""
        return _DRAWS * (self.search.propose or 0) + (self.search.trials + 2) * self.scored

    @property
    def measuring(self) -> int:
        """Requests of the evaluation, with the plain and the best prompt."""
        return 2 * self.examples.get("test", 0)

    @property
    def requests(self) -> int:
        """Requests in all."""
        return self.searching + self.measuring

    def sentences(self) -> list[str]:
        """What the user should know."""
        endpoint = self.spec.model.endpoint
        assert endpoint is not None
        return [
            f"{endpoint.model} is behind an endpoint, so only PromptSearch is possible: it asks the model, and trains "
            "nothing. Methods that train need its weights in model.uri.",
            f"It asks at most {self.requests:,} requests: {self.searching:,} to score up to {self.search.trials:,} "
            f"combinations of an instruction with examples, each on {self.scored:,} validation rows, and "
            f"{self.measuring:,} to measure the plain and the best prompt on {self.examples.get('test', 0):,} test "
            "rows. Retries come on top; what was answered is not asked again.",
            *self._budgets(),
        ]

    def _budgets(self) -> list[str]:
        endpoint, most = self.spec.model.endpoint, self.search.max_tokens
        assert endpoint is not None
        limits = {
            "model.endpoint.maxRequests": endpoint.max_requests,
            "model.endpoint.maxTokens": endpoint.max_tokens,
            "method.promptSearch.maxTokens": most,
        }
        given = [f"{name} {value:,}" for name, value in limits.items() if value is not None]
        if not given:
            return ["No budget limits this: set model.endpoint.maxRequests or model.endpoint.maxTokens."]
        found = [f"Its budget: {', '.join(given)}."]
        if most is not None:
            found.append("Above method.promptSearch.maxTokens the search ends with the best prompt so far.")
        allowed = endpoint.max_requests
        if allowed is not None and allowed < self.requests:
            found.append(
                f"{allowed:,} requests may not be enough, and the job fails above them: raise "
                "model.endpoint.maxRequests, or lower method.promptSearch.trials or method.promptSearch.examples."
            )
        return found

    def lines(self) -> list[str]:
        """The advice for people."""
        found = ["", *(line for sentence in self.sentences() for line in wrapped(sentence))]
        return [*found, *(["", *models_lines(self.models)] if self.models else [])]

    def document(self) -> dict[str, Any]:
        """The advice for programs."""
        endpoint = self.spec.model.endpoint
        assert endpoint is not None
        return {
            "exitCode": 0,
            "data": {"rows": self.examples.get("train", 0)},
            "notes": self.sentences(),
            "model": {"endpoint": endpoint.url, "name": endpoint.model},
            "search": {
                "combinations": self.search.trials,
                "validationRows": self.scored,
                "requests": self.requests,
                "maxRequests": endpoint.max_requests,
                "maxTokens": endpoint.max_tokens,
                "searchMaxTokens": self.search.max_tokens,
            },
            "models": [model_document(one) for one in best_first(self.models)],
            "recommendation": {"method": str(self.spec.method.type)},
        }
