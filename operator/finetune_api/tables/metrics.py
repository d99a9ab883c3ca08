"""Metrics: their names, direction and number format."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from finetune_api.tables.table import table


class Metric(StrEnum):
    """A metric on the test split."""

    ACCURACY = "accuracy"
    MACRO_F1 = "macro_f1"
    WEIGHTED_F1 = "weighted_f1"
    MICRO_F1 = "micro_f1"
    MCC = "mcc"
    AUROC = "auroc"
    ECE = "ece"
    LOSS = "loss"
    TOKEN_ACCURACY = "token_accuracy"
    EXACT_MATCH = "exact_match"
    ROUGE_L = "rouge_l"
    ROUGE_1 = "rouge_1"
    ROUGE_2 = "rouge_2"
    ROUGE_LSUM = "rouge_lsum"
    CHRF = "chrf"
    BLEU = "bleu"
    SQUAD_F1 = "squad_f1"
    HAS_ANSWER_F1 = "has_answer_f1"
    NO_ANSWER_F1 = "no_answer_f1"
    PREFERRED = "preferred"
    PREFERRED_PER_TOKEN = "preferred_per_token"
    REWARD_ACCURACY = "reward_accuracy"
    MARGIN = "margin"
    PERPLEXITY = "perplexity"
    BITS_PER_BYTE = "bits_per_byte"
    PASS_AT_1 = "pass_at_1"
    PASS_AT_5 = "pass_at_5"
    PASS_AT_10 = "pass_at_10"
    PASS_AT_100 = "pass_at_100"
    PARSES = "parses"

    @property
    def row(self) -> MetricRow:
        return METRICS[self]

    @property
    def higher_is_better(self) -> bool:
        return self.row.higher_is_better


@dataclass(frozen=True)
class MetricRow:
    """One metric."""

    title: str
    meaning: str
    """Explanation of the number in the report and the model card."""
    hub_name: str
    """Name of the metric on the Hugging Face Hub."""
    higher_is_better: bool = True
    highest: float | None = 1
    """Largest value, if there is one. Charts show metrics up to 1 on a common scale."""
    lowest: float = 0
    """Smallest value, of a metric that has a largest one."""
    decisions: bool = False
    """Whether it is the share of the examples that are right, each being right or wrong."""
    digits: int = 3
    """Digits after the decimal point."""
    neutral: float | None = None
    """The value of the base model by definition where it is a metric of rewards, which are measured against that
    model.
    """
    passes_of: int = 0
    """k of pass@k, the chance that one of k programs passes its tests; 0 for a metric that runs no program."""

    @property
    def unit_scale(self) -> bool:
        """Whether values are in 0 … 1, or changes of the same size."""
        return self.highest == 1


def _pass_at(k: int) -> MetricRow:
    programs = "a program passes its tests" if k == 1 else f"one of {k} programs passes its tests"
    return MetricRow(
        f"pass@{k}",
        f"chance that {programs}, over the rows with tests",
        "pass@k",
        decisions=k == 1,
        passes_of=k,
    )


METRICS = table(
    Metric,
    {
        Metric.ACCURACY: MetricRow(
            "Accuracy",
            "share of examples with the right label; with multiLabel, with all labels right",
            "accuracy",
            decisions=True,
        ),
        Metric.MACRO_F1: MetricRow("Macro F1", "mean of every label's F1, each label counting the same", "f1"),
        Metric.WEIGHTED_F1: MetricRow("Weighted F1", "mean of every label's F1, weighted by its examples", "f1"),
        Metric.MICRO_F1: MetricRow("Micro F1", "F1 over all label decisions, each counting the same", "f1"),
        Metric.MCC: MetricRow(
            "Matthews correlation",
            "correlation of predictions and labels; 0 is chance, 1 is perfect",
            "matthews_correlation",
            lowest=-1,
        ),
        Metric.AUROC: MetricRow(
            "AUROC",
            "chance that a row with a label ranks above one without it, the mean over the labels; in PreferenceTuning, "
            "that a desirable answer has a higher reward than an undesirable one",
            "roc_auc",
            neutral=0.5,
        ),
        Metric.ECE: MetricRow(
            "ECE",
            "mean difference between confidence and accuracy, in 15 bins of the confidence; lower is better",
            "expected_calibration_error",
            higher_is_better=False,
        ),
        Metric.LOSS: MetricRow(
            "Loss",
            "nats per token of the reference answers; lower is better",
            "loss",
            higher_is_better=False,
            highest=None,
        ),
        Metric.TOKEN_ACCURACY: MetricRow(
            "Token accuracy",
            "share of the tokens of the answer, or of the document, that were the model's first choice",
            "accuracy",
        ),
        Metric.EXACT_MATCH: MetricRow(
            "Exact match",
            "share of answers that are the reference; in QuestionAnswering by the rules of SQuAD 2.0, in "
            "CodeGeneration with all white space but line breaks at the end",
            "exact_match",
            decisions=True,
        ),
        Metric.ROUGE_L: MetricRow("ROUGE-L", "words in common with the reference, in order; 0 to 1", "rouge"),
        Metric.ROUGE_1: MetricRow("ROUGE-1", "words in common with the reference; 0 to 1", "rouge"),
        Metric.ROUGE_2: MetricRow("ROUGE-2", "pairs of words in common with the reference; 0 to 1", "rouge"),
        Metric.ROUGE_LSUM: MetricRow(
            "ROUGE-Lsum", "words in common with the reference, in order within each sentence; 0 to 1", "rouge"
        ),
        Metric.CHRF: MetricRow(
            "chrF", "characters in common with the reference; 0 to 100", "chrf", highest=100, digits=1
        ),
        Metric.SQUAD_F1: MetricRow(
            "SQuAD F1", "words in common with the closest reference, by the rules of SQuAD 2.0; 0 to 1", "f1"
        ),
        Metric.HAS_ANSWER_F1: MetricRow("F1 with answer", "SQuAD F1 of the questions that have an answer", "f1"),
        Metric.NO_ANSWER_F1: MetricRow(
            "F1 without answer", "share of the questions without an answer that got none", "f1"
        ),
        Metric.BLEU: MetricRow("BLEU", "phrases in common with the reference; 0 to 100", "bleu", highest=100, digits=1),
        Metric.PREFERRED: MetricRow("Preferred", "share of pairs whose chosen answer is likelier", "accuracy"),
        Metric.PREFERRED_PER_TOKEN: MetricRow(
            "Preferred per token", "share of pairs whose chosen answer is likelier per token", "accuracy"
        ),
        Metric.REWARD_ACCURACY: MetricRow(
            "Reward accuracy",
            "share of pairs whose chosen answer has the higher reward, beta times the log-probability that it gained",
            "accuracy",
            neutral=0.5,
        ),
        Metric.MARGIN: MetricRow(
            "Margin",
            "mean reward of chosen or desirable answers, minus that of the others",
            "margin",
            highest=None,
            neutral=0.0,
        ),
        Metric.PERPLEXITY: MetricRow(
            "Perplexity",
            "exp of the nats per token, with the ends of the documents; lower is better; depends on the tokenizer",
            "perplexity",
            higher_is_better=False,
            highest=None,
            digits=2,
        ),
        Metric.BITS_PER_BYTE: MetricRow(
            "Bits per byte",
            "bits for each byte of the documents in UTF-8; lower is better; comparable across tokenizers",
            "bits_per_byte",
            higher_is_better=False,
            highest=None,
            digits=4,
        ),
        Metric.PASS_AT_1: _pass_at(1),
        Metric.PASS_AT_5: _pass_at(5),
        Metric.PASS_AT_10: _pass_at(10),
        Metric.PASS_AT_100: _pass_at(100),
        Metric.PARSES: MetricRow(
            "Parses",
            "share of answers that, after their prompt, are a program without syntax errors",
            "accuracy",
            decisions=True,
        ),
    },
)
