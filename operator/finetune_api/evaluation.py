"""``evaluation.json``: the tuned model compared with its baseline."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, JsonValue

from finetune_api.base import ApiModel, Rule
from finetune_api.spec import Gate, MetricName


@dataclass(frozen=True)
class Compared:
    """How people call what is compared with a baseline."""

    title: str
    """Head of a column."""
    noun: str
    cause: str
    """What has changed the outputs, as in "fixed by tuning"."""


_TUNED = Compared("tuned", "tuned model", "tuning")
_BEST_PROMPT = Compared("best prompt", "best prompt", "the best prompt")


class BaselineKind(StrEnum):
    """What the tuned model is compared with."""

    BASE_MODEL = "BaseModel"
    LINEAR_PROBE = "LinearProbe"
    MAJORITY_CLASS = "MajorityClass"
    NO_ANSWER = "NoAnswer"
    PREVIOUS = "Previous"
    PLAIN_PROMPT = "PlainPrompt"

    @property
    def compared(self) -> Compared:
        """What is compared with this baseline."""
        return _BEST_PROMPT if self is BaselineKind.PLAIN_PROMPT else _TUNED


class Verdict(StrEnum):
    """Whether the tuned model is better than the baseline."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference shown"


class Baseline(ApiModel):
    """The baseline of the comparison."""

    kind: BaselineKind = Field(
        description="BaseModel: the model before fine-tuning, with the same inputs. LinearProbe: logistic "
        "regression on the frozen model. MajorityClass: always the most frequent label. NoAnswer: no question has an "
        "answer. Previous: the adapter that training continued from, or the artifact that the job published before; "
        "details.previous in evaluation.json says which. PlainPrompt: the same model, with the default instruction of "
        "the task and no examples."
    )


class MetricResult(ApiModel):
    """One metric of the baseline and the tuned model, on the same examples."""

    name: MetricName = Field(description="The metric, or task/metric of lm-eval.")
    baseline: float | None = Field(
        default=None, description="Value of the baseline; absent for a metric of rewards, which has measuredAgainst."
    )
    measured_against: BaselineKind | None = Field(
        default=None,
        description="Metrics of rewards: the model that rewards are measured against, from which training "
        "started: BaseModel, or Previous for model.adapter. Its own rewards are 0 by definition, so that it has no "
        "score.",
    )
    tuned: float = Field(description="Value of the tuned model.")
    teacher: float | None = Field(
        default=None, description="Value of the teacher on the same examples; absent without one."
    )
    change: float = Field(
        description="tuned - baseline. For a metric of rewards, tuned - the value where all rewards are 0: 0 of "
        "margin, 0.5 of reward_accuracy and auroc."
    )
    interval: tuple[float, float] = Field(
        description="95 % interval of the change: paired bootstrap over the examples."
    )
    higher_is_better: bool = Field(description="Whether a positive change is an improvement.")

    @property
    def improvement(self) -> float:
        """The change, positive when the tuned model is better."""
        return self.change if self.higher_is_better else -self.change

    @property
    def best_improvement(self) -> float:
        """The largest improvement in the interval."""
        low, high = self.interval
        return high if self.higher_is_better else -low

    @property
    def gap_closed(self) -> float | None:
        """The share of the way from the baseline to the teacher that tuning went; None if the teacher is not better."""
        if self.teacher is None or self.baseline is None:
            return None
        gap = (self.teacher - self.baseline) * (1 if self.higher_is_better else -1)
        return self.improvement / gap if gap > 0 else None

    @property
    def verdict(self) -> Verdict:
        """``better`` or ``worse`` if the interval of the change excludes 0."""
        low, high = self.interval
        if low <= 0 <= high:
            return Verdict.NO_DIFFERENCE
        return Verdict.BETTER if (low > 0) is self.higher_is_better else Verdict.WORSE


class ModelCost(ApiModel):
    """What a model costs in use."""

    parameters: int = Field(ge=0, le=2**53 - 1, description="Number of its parameters, those of an adapter included.")
    bytes: int = Field(ge=0, le=2**53 - 1, description="Memory of its weights as they were evaluated.")
    rows_per_second: float = Field(
        ge=0, description="Rows of the test split in a second: forward passes without gradients."
    )
    tokens_per_second: float = Field(ge=0, description="Tokens of these rows in a second, without padding.")


class Costs(ApiModel):
    """Size and speed of student and teacher, measured one after the other with the same batches of test examples."""

    student: ModelCost = Field(description="The tuned model.")
    teacher: ModelCost | None = Field(
        default=None, description="The teacher; none if it answers behind an endpoint, whose size is not known."
    )
    device: str = Field(max_length=16, description="Device of the measurement: cpu or cuda.")


class GateResult(Gate):
    """A gate and its result. Beside the gates of the spec, there is the implicit one, with ``notWorse``."""

    not_worse: bool | None = Field(
        default=None,
        description="True for the implicit gate: the score must not be significantly worse than that of the baseline. "
        "evaluation.publishWorse turns it off.",
    )
    value: float = Field(
        description="Value compared with the bound: the metric of the tuned model, or its improvement. For the "
        "implicit gate it is the largest improvement in the 95 % interval, which must not be negative."
    )
    passed: bool = Field(description="Whether the gate passed.")

    rules: ClassVar[tuple[Rule, ...]] = ()


class SpanDecoding(ApiModel):
    """How the answers of a QuestionAnswering encoder were chosen, in addition to its logits."""

    longest_answer: int = Field(ge=1, le=2**31 - 1, description="Largest number of tokens of an answer.")
    threshold: float | None = Field(
        default=None,
        description="The tuned model gives no answer where the score of no answer exceeds that of the best span by "
        "more than this; it was chosen on the validation split. Absent if every question gets an answer.",
    )
    baseline_threshold: float | None = Field(default=None, description="The same of the baseline, chosen likewise.")


class SliceScore(ApiModel):
    """The score on the test examples with one value of a column of evaluation.slices."""

    column: str = Field(max_length=128, description="Name of the column.")
    value: str | None = Field(default=None, max_length=128, description="The value; absent for rows without one.")
    examples: int = Field(ge=1, le=2**53 - 1, description="Number of the examples.")
    baseline: float | None = Field(default=None, description="Score of the baseline; absent for a metric of rewards.")
    tuned: float = Field(description="Score of the tuned model.")
    interval: tuple[float, float] = Field(
        description="95 % interval of the change: paired bootstrap over the examples."
    )
    verdict: Verdict | None = Field(
        default=None, description="Whether the score is better or worse; absent for fewer than 10 examples."
    )


class Evaluation(ApiModel):
    """The comparison of the tuned model with the baseline, in a stage's report and in status."""

    split: str = Field(max_length=64, description="Name of the split.")
    examples: int = Field(ge=1, le=2**53 - 1, description="Number of its examples.")
    baseline: Baseline = Field(description="The baseline.")
    metrics: tuple[MetricResult, ...] = Field(
        max_length=64,
        description="Every metric; the first is the score. Those of evaluation.harness without a gate are only in "
        "evaluation.json if there are many.",
    )
    verdict: Verdict | None = Field(
        default=None, description="Whether the score is better or worse: the 95 % interval of its change excludes 0."
    )
    test_digest: str | None = Field(
        default=None, max_length=128, description="Digest of the test examples, whatever their order and files."
    )
    gates: tuple[GateResult, ...] = Field(default=(), max_length=17, description="Every gate.")
    slices: tuple[SliceScore, ...] = Field(
        default=(), max_length=16, description="The score by slice, if there are few; evaluation.json has all metrics."
    )
    notes: tuple[Annotated[str, Field(max_length=200)], ...] = Field(
        default=(), max_length=16, description="What to know about the result, such as a test split that is too small."
    )
    span_decoding: SpanDecoding | None = Field(
        default=None, description="QuestionAnswering with an encoder: how answers were chosen."
    )
    harness_digest: str | None = Field(
        default=None, max_length=128, description="Digest of the files of evaluation.harnessPath."
    )
    exact_base: MetricResult | None = Field(
        default=None,
        description="model.quantization: the score of the adapter on the base model without quantization, as tuned, "
        "and on the quantised one, as baseline. No gate applies to it. Absent if the model does not fit the memory.",
    )

    costs: Costs | None = Field(
        default=None, description="Distillation: size and speed of student and teacher; absent without a local teacher."
    )

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)


class EvaluationFile(Evaluation):
    """``evaluation.json``."""

    details: dict[str, JsonValue] = Field(
        default={},
        description="How the models were compared: the baseline, decoding, versions and settings of metrics.",
    )

    @property
    def evaluation(self) -> Evaluation:
        """Without the details."""
        return Evaluation(**{name: getattr(self, name) for name in Evaluation.model_fields})
