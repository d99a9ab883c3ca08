"""``evaluation.json``: the tuned model compared with its baseline."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from finetune_api.base import ApiModel
from finetune_api.spec import Gate, Metric


class BaselineKind(StrEnum):
    """What the tuned model is compared with."""

    BASE_MODEL = "BaseModel"
    LINEAR_PROBE = "LinearProbe"
    MAJORITY_CLASS = "MajorityClass"


class Baseline(ApiModel):
    """The baseline of the comparison."""

    kind: BaselineKind = Field(
        description="BaseModel: the model before fine-tuning, with the same prompts. LinearProbe: logistic "
        "regression on the frozen model. MajorityClass: always the most frequent label."
    )


class MetricResult(ApiModel):
    """One metric of the baseline and the tuned model, on the same examples."""

    name: Metric = Field(description="The metric.")
    baseline: float = Field(description="Value of the baseline.")
    tuned: float = Field(description="Value of the tuned model.")
    change: float = Field(description="tuned - baseline.")
    interval: tuple[float, float] = Field(
        description="95 % interval of the change: paired bootstrap over the examples."
    )
    higher_is_better: bool = Field(description="Whether a positive change is an improvement.")

    @property
    def improvement(self) -> float:
        """The change, positive when the tuned model is better."""
        return self.change if self.higher_is_better else -self.change


class GateResult(Gate):
    """A gate and its result."""

    value: float = Field(
        description="Value compared with the bound: the metric of the tuned model, or its improvement."
    )
    passed: bool = Field(description="Whether the gate passed.")


class Evaluation(ApiModel):
    """The comparison of the tuned model with the baseline."""

    split: str = Field(max_length=64, description="Name of the split.")
    examples: int = Field(ge=1, le=2**53 - 1, description="Number of its examples.")
    baseline: Baseline = Field(description="The baseline.")
    metrics: tuple[MetricResult, ...] = Field(max_length=16, description="Every metric; the first is the score.")
    gates: tuple[GateResult, ...] = Field(default=(), max_length=16, description="Every gate.")

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)
