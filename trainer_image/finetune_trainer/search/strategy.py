"""Which combination to score next: Optuna's TPE sampler, over the combinations that are not scored yet."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState, create_trial

from finetune_trainer.search.record import Trial
from finetune_trainer.search.space import Combination, Space


class Strategy:
    """Suggests combinations, none of them twice.

    What is suggested depends only on the seed and on what is scored, so that a search that resumes goes on as it would
    have without a break.
    """

    def __init__(self, space: Space, *, maximize: bool, seed: int, scored: Iterable[Trial] = ()) -> None:
        optuna.logging.set_verbosity(logging.WARNING)
        self._space = space
        self._seed = seed
        self._scored = 0
        self._study = optuna.create_study(direction="maximize" if maximize else "minimize")
        self._open = dict.fromkeys(space)
        for trial in scored:
            self.tell(_combination(trial), trial.value)

    @property
    def left(self) -> int:
        """Combinations that are not scored."""
        return len(self._open)

    def next(self) -> Combination | None:
        """A combination that is not scored; None if all are."""
        if not self._open:
            return None
        generator = np.random.default_rng((self._seed, self._scored))
        self._study.sampler = optuna.samplers.TPESampler(seed=int(generator.integers(2**32)))
        asked = self._study.ask()
        suggested = self._space.suggested(asked)
        self._study.tell(asked, state=TrialState.FAIL)  # `tell` adds a trial of its own.
        if suggested in self._open:
            return suggested
        near = self._nearest(suggested)
        return near[int(generator.integers(len(near)))]

    def _nearest(self, suggested: Combination) -> list[Combination]:
        """Combinations that are not scored, and have as much as possible in common with one that is."""
        shared = max(_in_common(one, suggested) for one in self._open)
        return [one for one in self._open if _in_common(one, suggested) == shared]

    def tell(self, combination: Combination, value: float | None) -> None:
        """Record the score of a combination; None if it does not fit into the model."""
        self._open.pop(combination, None)
        self._scored += 1
        parameters = self._space.parameters(combination)
        self._study.add_trial(
            create_trial(
                params=parameters,
                distributions=self._distributions(combination),
                value=value,
                state=TrialState.FAIL if value is None else TrialState.COMPLETE,
            )
        )

    def _distributions(self, combination: Combination) -> dict[str, BaseDistribution]:
        recorder = _Recorder(self._space.parameters(combination))
        self._space.suggested(recorder)
        return recorder.distributions


class _Recorder:
    """Stands for a trial of Optuna with known parameters, and records their distributions."""

    def __init__(self, parameters: dict[str, int]) -> None:
        self._parameters = parameters
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_categorical(self, name: str, choices: list[int]) -> int:
        self.distributions[name] = CategoricalDistribution(choices)
        return self._parameters[name]


def _combination(trial: Trial) -> Combination:
    return Combination(trial.candidate, trial.shots, trial.chosen, trial.order)


def _in_common(one: Combination, other: Combination) -> int:
    """How many of candidate, shots and set are the same, in this order."""
    return next((place for place in range(len(one)) if one[place] != other[place]), len(one))
