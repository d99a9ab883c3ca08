"""How likely the base model finds the answers that training prefers."""

from __future__ import annotations

import numpy as np
import torch

from finetune_trainer.evaluate.base_score import BaseScore, bytes_of, of_text
from finetune_trainer.evaluate.comparison import SPLIT, EvaluationInputs
from finetune_trainer.modelling.loading import check_finite, set_padding
from finetune_trainer.modelling.outputs import logits_of
from finetune_trainer.modelling.tokenizer import load_prepared_tokenizer
from finetune_trainer.splits import open_split
from finetune_trainer.tasks.preference_tuning.data import PreferenceDataset
from finetune_trainer.tasks.preference_tuning.losses import answer_log_probabilities


def base_score(inputs: EvaluationInputs) -> BaseScore:
    """As `finetune_trainer.evaluate.base_score.zero_shot`, of the chosen or desirable answers.

    Raises:
        StageFailure: As there.
    """
    data = PreferenceDataset(
        open_split(inputs.prepared, SPLIT), inputs.data.max_sequence_length, inputs.spec.training.seed
    )
    model = inputs.load(inputs.base).complete()
    set_padding(model, inputs.data.padding)
    tokenizer = load_prepared_tokenizer(inputs.prepared)
    nats, length = 0.0, 0
    for row in np.flatnonzero(data.labels == 1).tolist():
        features = data.row(row)
        sequence = torch.from_numpy(features["sequences"][0])
        is_answer = torch.arange(len(sequence)) >= features["starts"][0]
        tokens, answers = (part.unsqueeze(0).to(inputs.hardware.device) for part in (sequence, is_answer))
        with torch.inference_mode(), inputs.hardware.autocast():
            logits = logits_of(model(input_ids=tokens, attention_mask=torch.ones_like(tokens)))
        check_finite(logits, "baseline", "output")
        nats -= float(answer_log_probabilities(logits, tokens, answers).sum())
        length += bytes_of(tokenizer, sequence[is_answer])
    return of_text(nats, length)
