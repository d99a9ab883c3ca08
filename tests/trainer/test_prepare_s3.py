"""The prepare stage reading from and writing to a real S3 server on localhost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import ModelSpec
from finetune_trainer.manifests import fetch_directory
from finetune_trainer.models import fetch_model
from finetune_trainer.prepared import read_report
from finetune_trainer.splits import open_split
from finetune_trainer.stages.prepare import run
from tests.s3 import s3_server
from tests.trainer.prepare_fixtures import a_chat_model, a_context, json_lines


def test_prepare_reads_data_and_model_from_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(tmp_path / "s3") as server:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("FINETUNE_STORAGE_PATIENCE_SECONDS", "1")
        bucket = server.make_bucket("bucket")
        a_chat_model(server.root / "bucket" / "model", None)
        (server.root / "bucket" / "model" / "pytorch_model.bin").write_bytes(b"a pickle")
        for number in range(2):
            rows = [{"prompt": f"question {number}-{row}", "completion": "answer"} for row in range(20)]
            json_lines(server.root / "bucket" / "data" / f"{number}.jsonl", rows)
        context = a_context(
            tmp_path,
            f"{bucket}/model",
            {"type": "InstructionTuning"},
            {"train": {"uri": f"{bucket}/data/?.jsonl"}},
            output={"uri": f"{bucket}/out"},
        )
        result = run(context)
        assert run(context) == result
        fetch_directory(context.config.layout.prepared, tmp_path / "copy")
        report = read_report(tmp_path / "copy")
        assert sum(result.examples.values()) == 40
        assert [source.uri for source in report.sources] == [f"{bucket}/data/0.jsonl", f"{bucket}/data/1.jsonl"]
        assert len(open_split(tmp_path / "copy", "train")) == result.examples["train"]
        model = ModelSpec(uri=f"{bucket}/model")
        local = fetch_model(model, tmp_path / "model", weights=True, revision=report.model.revision)
        assert (local.path / "model.safetensors").is_file()
        assert not (local.path / "pytorch_model.bin").exists()
        with pytest.raises(StageFailure) as failure:
            fetch_model(ModelSpec(uri=f"{bucket}/none"), tmp_path / "none", weights=True)
        assert failure.value.reason is Reason.NOT_FOUND
