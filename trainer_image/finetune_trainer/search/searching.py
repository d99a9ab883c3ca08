"""The loop of a search: scores combinations until there are enough, none is left, or the budget is used up."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_api.failures import Reason, StageFailure
from finetune_api.method_settings import PromptSearchSpec
from finetune_trainer.search.asked import Asked, DoesNotFit, OnExamples
from finetune_trainer.search.objective import Objective
from finetune_trainer.search.prompt import Prompt
from finetune_trainer.search.record import End, Record, Scored, Trial
from finetune_trainer.search.space import Combination, Space
from finetune_trainer.search.strategy import Strategy


class Searching:
    """Scores prompts and records the scores."""

    def __init__(
        self,
        record: Record,
        space: Space,
        objective: Objective,
        asked: Asked,
        settings: PromptSearchSpec,
        *,
        seed: int,
        alive: OnExamples,
    ) -> None:
        self._record = record
        self._space = space
        self._objective = objective
        self._asked = asked
        self._settings = settings
        self._strategy = Strategy(space, maximize=record.maximize, seed=seed, scored=record.trials)
        self._alive = alive
        self._problem: DoesNotFit | None = None
        self._refused: Prompt | None = None
        """The prompt for which the budget may not be enough."""

    def trials(self, plain: Prompt) -> Iterator[tuple[int, int]]:
        """Score ``plain``, the combinations, and the best instruction without its examples.

        Yields:
            The combinations that are scored and those to score in all, after each score.

        Raises:
            StageFailure: BadConfiguration when the budget is not enough for one combination, or ``plain`` or all
                combinations do not fit into the model.
        """
        record = self._record
        total = min(self._settings.trials, record.distinct)
        if record.plain is None or record.plain.value is None:
            record.plain = self._scored(plain)
            if record.plain is None:
                raise self._too_little(plain)
            if record.plain.value is None:
                raise self._plain_too_long()
            yield 0, total
        while record.end is None:
            record.end = self._trial(total)
            if record.end is None:
                yield len(record.trials), total
        best = record.best
        if best is None:
            raise self._nothing(plain)
        if record.alone is None and best.shots:
            record.alone = self._known(best.candidate) or self._scored(self._prompt(best).alone)
        yield len(record.trials), total

    def _trial(self, total: int) -> End | None:
        """Score the next combination, or say why there is none."""
        record = self._record
        if len(record.trials) >= total:
            return End.TRIALS if self._strategy.left else End.SPACE
        combination = self._strategy.next()
        assert combination is not None, "fewer are scored than there are"
        scored = self._scored(self._space.prompt(combination))
        if scored is None:
            return End.BUDGET
        self._strategy.tell(combination, scored.value)
        found = Trial(**dict(scored), **combination._asdict())
        record.trials = (*record.trials, found)
        return None

    def _scored(self, prompt: Prompt) -> Scored | None:
        """The score of a prompt; None if the budget may not be enough for it."""
        most = self._settings.max_tokens
        try:
            if most is not None and self._record.tokens + self._most(prompt) > most:
                self._refused = prompt
                return None
            value, cost = self._objective.value(self._asked, prompt, self._alive)
        except DoesNotFit as problem:
            self._problem = problem
            return Scored(value=None)
        return Scored(value=value, tokens=cost.tokens, shortened=cost.shortened, unusable=dict(cost.unusable))

    def _most(self, prompt: Prompt) -> int:
        return self._asked.most(prompt, self._objective.inputs, self._objective.labels).tokens

    def _known(self, candidate: int) -> Scored | None:
        """The score of a candidate without examples, if it was a trial; it costs nothing again."""
        found = (one for one in self._record.trials if one.candidate == candidate and not one.shots)
        return next((Scored(value=one.value) for one in found), None)

    def _prompt(self, trial: Trial) -> Prompt:
        return self._space.prompt(self.combination(trial))

    @staticmethod
    def combination(trial: Trial) -> Combination:
        """The combination of a trial."""
        return Combination(trial.candidate, trial.shots, trial.chosen, trial.order)

    def _nothing(self, plain: Prompt) -> StageFailure:
        if self._record.end is End.BUDGET:
            return self._too_little(plain)
        return StageFailure(
            Reason.BAD_CONFIGURATION,
            f"None of the {len(self._record.trials)} combinations fits into the model: {self._problem}; lower "
            "method.promptSearch.shots, shorten the candidates, or choose a model with more positions",
        )

    def _plain_too_long(self) -> StageFailure:
        return StageFailure(
            Reason.BAD_CONFIGURATION,
            "The plain prompt, which the best one is compared with, does not fit into the model: "
            f"{self._problem}; raise training.maxSequenceLength, shorten task.instruction where it is set, or choose a "
            "model with more positions",
        )

    def _too_little(self, plain: Prompt) -> StageFailure:
        """The failure for a budget that is used up before a combination is scored."""
        assert self._refused is not None
        needed = self._record.tokens + self._most(self._refused)  # What is scored has a known cost.
        if self._refused is plain:
            needed += self._first()
        return StageFailure(
            Reason.BAD_CONFIGURATION,
            f"method.promptSearch.maxTokens is {self._settings.max_tokens:,}, but the plain prompt and one combination "
            f"may need {needed:,} on {len(self._objective.rows)} validation examples: raise it, or lower "
            "method.promptSearch.examples or evaluation.generation.maxNewTokens",
        )

    def _first(self) -> int:
        """The most tokens that the first combination can cost; none if it does not fit into the model."""
        combination = self._strategy.next()
        assert combination is not None, "a search has combinations"
        try:
            return self._most(self._space.prompt(combination))
        except DoesNotFit:
            return 0
