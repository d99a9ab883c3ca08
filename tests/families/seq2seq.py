"""Tries a model type with an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig

from finetune_trainer.modelling.batching import TokenRows, padded
from finetune_trainer.modelling.shift import shift_of
from finetune_trainer.prepared import IGNORED_LABEL
from tests.families.check import Examination
from tests.families.compare import require_close
from tests.families.finding import recorded
from tests.families.inputs import AUTO_CLASSES
from tests.families.tiny import PAD, build


class Seq2SeqExamination(Examination):
    """Logits are those of the decoder for the target of a row."""

    def run(self) -> None:
        with recorded(self._finding, "decoder"):
            shift_of(self._bare)
        if not self._finding.checks["decoder"]:
            super().run()

    def run_virtual(self) -> None:
        """With embeddings that encoder and decoder share, as published models of nearly all types have."""
        config = AutoConfig.from_pretrained(self._base)
        config.tie_word_embeddings = True
        self._base = self._directory / "tied"
        build(config, AUTO_CLASSES[self._peft_task]).save_pretrained(self._base)
        vars(self).pop("_bare", None)
        super().run_virtual()

    def checks(self) -> dict[str, Callable[[], None]]:
        return {
            "batch": self._batch,
            "generates": self._generates,
            "generation": self._generation,
            "cache": self._cache,
        }

    def _logits(self, model: Any, rows: list[int]) -> list[torch.Tensor]:
        targets = TokenRows.of_column(self._table["labels"])
        tokens, mask = padded(self._rows, np.asarray(rows), PAD)
        labels = padded(targets, np.asarray(rows), IGNORED_LABEL)[0]
        with torch.inference_mode():
            inputs = shift_of(model)(labels)
            logits = model(input_ids=tokens, attention_mask=mask, decoder_input_ids=inputs, use_cache=False).logits
        return [logits[line, : len(targets[row])] for line, row in enumerate(rows)]

    def _generate(self, rows: list[int]) -> list[torch.Tensor]:
        made = self._generated(*padded(self._rows, np.asarray(rows), PAD))
        return list(torch.stack(made.logits, dim=1))

    def _cache(self, model: Any = None) -> None:
        """Generation with the cache gives the logits of one pass over the whole target."""
        model = model or self._bare
        tokens, mask = padded(self._rows, np.asarray([0]), PAD)
        made = self._generated(tokens, mask, model)
        with torch.inference_mode():
            logits = model(
                input_ids=tokens, attention_mask=mask, decoder_input_ids=made.sequences[:, :-1], use_cache=False
            ).logits
        require_close("generated with a cache", [logits[0]], [torch.stack(made.logits, dim=1)[0]])
