"""Jobs of QuestionAnswering with tiny encoders, whose tokenizers are made from the texts of the job."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from tests.trainer.stages import TinyJob

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def with_special(backend: Tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer that puts [CLS] and [SEP] around texts, as that of BERT does."""
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def of_words(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token a word."""
    words = [*SPECIAL, *dict.fromkeys(word for text in texts for word in text.split())]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return with_special(backend)


def tokenizer_of(kind: str, texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer that normalises text as uncased BERT (``bert``), XLM-RoBERTa (``unigram``) or ModernBERT (``bytes``)
    does.
    """
    backend: Tokenizer
    trainer: Any
    if kind == "bert":
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(strip_accents=True, lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=160, special_tokens=SPECIAL, show_progress=False)
    elif kind == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.normalizer = normalizers.NFKC()
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=160, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
        )
    else:
        backend = Tokenizer(models.BPE())
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    backend.train_from_iterator([*texts] * 3, trainer)
    return with_special(backend)


def save_encoder(directory: Path, kind: str, texts: Sequence[str], head: bool = False) -> PreTrainedTokenizerFast:
    """A small BERT, or RoBERTa for the kinds ``unigram`` and ``bytes``, without a head unless ``head``."""
    tokenizer = of_words(texts) if kind == "words" else tokenizer_of(kind, texts)
    torch.manual_seed(3)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "initializer_range": 0.1,
        "max_position_embeddings": 130,
        "pad_token_id": 0,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    model: Any
    if head:
        model = BertForQuestionAnswering(BertConfig(**sizes))
    elif kind in ("unigram", "bytes"):
        model = RobertaModel(RobertaConfig(**sizes, type_vocab_size=1))
    else:
        model = BertModel(BertConfig(**sizes))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return tokenizer


def texts_of(rows: Iterable[dict[str, Any]]) -> list[str]:
    return [text for row in rows for text in (row["question"], row["context"])]


def heart_job(root: Path, rows: list[dict[str, Any]], kind: str = "bert", head: bool = False, **spec: Any) -> TinyJob:
    """A job that learns ``rows`` by heart: all splits are the same file; not prepared."""
    save_encoder(root / "base", kind, texts_of(rows), head)
    path = root / "train.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    source = {"uri": path.as_uri()}
    return TinyJob(
        root,
        {
            "model": {"uri": (root / "base").as_uri()},
            "task": {"type": "QuestionAnswering"},
            "dataset": {
                "train": source,
                "validation": source,
                "test": {**source, "minimumExamples": 1},
                "cleaning": {"deduplicate": "None"},
            },
            "method": {"type": "Full"},
            "training": {
                "maxSteps": 100,
                "evaluateEverySteps": 50,
                "batchSize": 10,
                "learningRate": 3e-3,
                "maxSequenceLength": 64,
            },
            "distributed": {"gpusPerWorker": 0, "zero": {"stage": 0}},
            "output": {"uri": (root / "storage").as_uri(), "keep": {"preparedData": True}},
            **spec,
        },
    )
