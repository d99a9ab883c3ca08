"""What is advised for a model behind an endpoint, which only a search for a prompt can use. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic.alias_generators import to_camel

from finetune_api.method_settings import PromptSearchSpec
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import PrepareResult
from finetune_api.tables.methods import MethodType
from finetune_cli.advise.models import ModelScore, best_first
from finetune_cli.advise.report import model_document, models_lines, suggested_settings, wrapped
from finetune_cli.source import Document

_METHOD = next(method for method in MethodType if not method.row.trains)
_METHOD_LINE = f"method: {{type: {_METHOD}{suggested_settings(_METHOD)}}}"
"""The line for a manifest without a method."""
_PROCESSES = ("workers", "gpusPerWorker")
"""Fields of spec.distributed that a search, which runs in one process, has at most 1 of."""
_DRAWS = 3
"""Requests at most for each proposed instruction."""


@dataclass(frozen=True)
class EndpointAdvice:
    """How much a search asks an endpoint at most."""

    spec: FineTuneJobSpec
    search: PromptSearchSpec
    examples: Mapping[str, int]
    """Rows of each split."""
    tokens: tuple[int, int]
    """About what the model reads and writes, in the search without proposals, and in the evaluation."""
    models: Sequence[ModelScore] = ()
    manifest: str = ""
    """Path of the manifest."""
    suggested: Sequence[str] = ()
    """The lines that it needs, if it has no method."""

    @classmethod
    def of(
        cls,
        spec: FineTuneJobSpec,
        prepared: PrepareResult,
        tokens: tuple[int, int],
        models: Sequence[ModelScore],
        *,
        manifest: str = "",
        suggested: Sequence[str] = (),
    ) -> EndpointAdvice:
        """The advice for a job with ``model.endpoint``."""
        search = spec.method.settings
        assert isinstance(search, PromptSearchSpec)  # A rule: no other method is for an endpoint.
        return cls(spec, search, prepared.examples, tokens, models, manifest, suggested)

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
            f"It sends at most {self.requests:,} requests: {self.searching:,} to score up to {self.search.trials:,} "
            f"combinations of an instruction with examples, each on {self.scored:,} validation rows, and "
            f"{self.measuring:,} to measure the plain and the best prompt on {self.examples.get('test', 0):,} test "
            "rows. Retries come on top; what was answered is not asked again.",
            f"It reads and writes about {sum(self.tokens):,} tokens: {self.tokens[0]:,} to score combinations, and "
            f"{self.tokens[1]:,} to measure. A token is counted as four bytes; proposals and reasoning come on top.",
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
        searching, measuring = self.tokens
        if most is not None and most < searching:
            found.append(
                f"{most:,} tokens may not be enough for all {self.search.trials:,} combinations: raise "
                "method.promptSearch.maxTokens, or lower method.promptSearch.examples or method.promptSearch.shots."
            )
            searching = most
        if endpoint.max_tokens is not None and endpoint.max_tokens < searching + measuring:
            found.append(
                f"{endpoint.max_tokens:,} tokens may not be enough, and the job fails above them: raise "
                "model.endpoint.maxTokens, or lower method.promptSearch.trials or method.promptSearch.examples."
            )
        return found

    def lines(self) -> list[str]:
        """The advice for people."""
        found = ["", *(line for sentence in self.sentences() for line in wrapped(sentence))]
        found += ["", *models_lines(self.models)] if self.models else []
        if self.suggested:
            found += ["", f"In {self.manifest}, below spec:", *(f"  {line}" for line in self.suggested)]
        return found

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
                "tokens": sum(self.tokens),
                "searchTokens": self.tokens[0],
                "maxRequests": endpoint.max_requests,
                "maxTokens": endpoint.max_tokens,
                "searchMaxTokens": self.search.max_tokens,
            },
            "models": [model_document(one) for one in best_first(self.models)],
            "recommendation": {
                "method": str(self.spec.method.type),
                "manifest": list(self.suggested),
            },
        }


def with_search(document: Document) -> tuple[Document, tuple[str, ...]]:
    """A manifest with a search for a prompt in one process, if its model is behind an endpoint and it has no method;
    and the lines that it needs for that.
    """
    spec = document.data.get("spec") if isinstance(document.data, dict) else None
    model = spec.get("model") if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or not isinstance(model, dict) or not model.get("endpoint") or spec.get("method"):
        return document, ()
    settings = _METHOD.row.settings
    assert settings is not None
    assert settings.suggested is not None
    changes: dict[str, Any] = {"method": {"type": str(_METHOD), to_camel(settings.field): dict(settings.suggested)}}
    lines = [_METHOD_LINE]
    given = spec.get("distributed")
    several = [
        name for name in _PROCESSES if isinstance(given, dict) and isinstance(given.get(name), int) and given[name] > 1
    ]
    if isinstance(given, dict) and several:
        changes["distributed"] = {**given, **dict.fromkeys(several, 1)}
        lines.append(f"distributed: {{{', '.join(f'{name}: 1' for name in several)}}}")
    return replace(document, data={**document.data, "spec": {**spec, **changes}}), tuple(lines)
