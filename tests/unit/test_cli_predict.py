"""Arguments of `finetune predict`: the artifact and the rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.job import ArtifactStatus, FineTuneJobStatus, Phase, RevisionRecord
from finetune_cli.artifacts import Reference, address_of, artifact_of
from finetune_cli.local import LocalError
from finetune_cli.predict import as_address, lines, rows_of
from tests.builders import a_job

FIRST = ArtifactStatus(uri="s3://a/r1/artifact", digest="sha256:1")
SECOND = ArtifactStatus(uri="s3://a/r2/artifact", digest="sha256:2")


def test_argument_is_an_address_or_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "artifact").mkdir()
    assert address_of("s3://a/artifact/") == "s3://a/artifact"
    assert address_of("artifact") == (tmp_path / "artifact").as_uri()
    assert address_of("job.yaml") is None
    assert Reference.of("job.yaml@12") == Reference("job.yaml", 12)
    assert Reference.of("intents") == Reference("intents")
    assert as_address("base") == (tmp_path / "base").as_uri()
    assert as_address("hf://owner/model") == "hf://owner/model"


def test_artifact_of_the_current_or_an_earlier_revision() -> None:
    record = RevisionRecord(revision=1, phase=Phase.SUCCEEDED, spec_digest="", artifact=FIRST)
    job = a_job(FineTuneJobStatus(revision=2, artifact=SECOND, history=(record,)))
    assert artifact_of(job, Reference("intents")) == SECOND
    assert artifact_of(job, Reference("intents", 1)) == FIRST
    with pytest.raises(
        LocalError, match=r"^Revision 3 of intents has published no artifact \(there is no such revision\); there"
    ):
        artifact_of(job, Reference("intents", 3))
    with pytest.raises(LocalError, match=r"^intents has published no artifact \(Pending\)\.$"):
        artifact_of(a_job(), Reference("intents"))


def test_files_of_rows_are_not_read_as_texts(tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"text": "one"}\n\n{"text": "two"}\n')
    assert rows_of([], str(lines), jsonl=False) == [{"text": "one"}, {"text": "two"}]
    with pytest.raises(LocalError, match=r"predict reads lines of text, or JSON objects .*; convert rows\.csv"):
        rows_of([], "rows.csv", jsonl=False)
    with pytest.raises(LocalError, match=r"argument:1 is not JSON: .* Read a file with --file .*rows\.jsonl"):
        rows_of([str(lines)], None, jsonl=True)


def test_rows_are_arguments_or_lines(tmp_path: Path) -> None:
    file = tmp_path / "texts"
    file.write_text('one\n{"text": 2}\n')
    assert rows_of(["a", "b"], None, jsonl=False) == ["a", "b"]
    assert rows_of([], str(file), jsonl=False) == ["one", '{"text": 2}']
    with pytest.raises(LocalError, match="texts:1 is not JSON"):
        rows_of([], str(file), jsonl=True)
    file.write_text("[1]\n")
    with pytest.raises(LocalError, match="texts:1 is not a JSON object"):
        rows_of([], str(file), jsonl=True)
    file.write_text("one\n\ntwo\n")
    with pytest.raises(LocalError, match="texts:2 is empty"):
        rows_of([], str(file), jsonl=False)
    file.write_text("")
    with pytest.raises(LocalError, match="contains no text"):
        rows_of([], str(file), jsonl=False)
    with pytest.raises(LocalError, match=r"Cannot read .*none: no such file or directory"):
        rows_of([], str(tmp_path / "none"), jsonl=False)


def test_answers_of_several_lines_have_headings() -> None:
    assert lines(["a\nb"]) == ["a\nb"]
    assert lines(["a", "b"]) == ["a", "b"]
    assert lines(["a\nb", "c"]) == ["==> 1 <==", "a\nb", "==> 2 <==", "c"]
