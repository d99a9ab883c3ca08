"""``finetune compare``: which results an argument means, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from finetune_api.evaluation import Evaluation
from finetune_api.job import FineTuneJobStatus, Phase, RevisionRecord
from finetune_cli.artifacts import Reference
from finetune_cli.compare import side_of_address, side_of_job
from finetune_cli.local import LocalError
from finetune_cli.main import app
from finetune_core.summaries import evaluation_status
from tests.builders import a_job, an_evaluation


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))


def stored(name: str, tuned: str, gold: str = "ab" * 20, predictions: bool = True, **changes: Any) -> str:
    """The directory of an evaluation of a classifier, which predicts ``tuned``."""
    accuracy = sum(left == right for left, right in zip(tuned, gold, strict=True)) / len(gold)
    evaluation = an_evaluation(tuned=accuracy).model_dump(mode="json", exclude_none=True)
    evaluation["metrics"] = evaluation["metrics"][:1]
    path = Path(name)
    path.mkdir()
    (path / "evaluation.json").write_text(json.dumps({**evaluation, "examples": len(gold), **changes}))
    rows = [
        {"source": f"{name}:{n}", "text": f"{n}", "label": label, "baseline": "a", "tuned": tuned[n]}
        for n, label in enumerate(gold)
    ]
    if predictions:
        (path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["compare", *arguments])


class TestOutput:
    def test_paired_interval_from_the_predictions(self) -> None:
        result = compare(stored("a", "ab" * 10 + "ba" * 10), stored("b", "ab" * 20))
        assert result.exit_code == 0, result.stderr
        lines = result.stdout.splitlines()
        assert lines[:2] == ["A  a, on 40 test examples", "B  b, on 40 test examples"]
        assert lines[4].split()[:4] == ["accuracy", "0.5000", "1.0000", "+0.5000"]
        assert lines[4].endswith("B is better")

    def test_files_without_predictions_are_compared_by_their_intervals(self) -> None:
        first = stored("a", "ab" * 20, predictions=False, testDigest="sha256:1")
        second = stored("b", "ab" * 20, predictions=False, testDigest="sha256:1")
        result = compare(f"{first}/evaluation.json", f"{second}/evaluation.json")
        assert result.exit_code == 0, result.stderr
        assert "intervals overlap" in result.stdout
        assert "the changes from the baseline (linear probe)" in result.stdout

    @pytest.mark.parametrize(("other", "noted"), [("beam search with 4 beams", True), ("greedy", False), (None, False)])
    def test_answers_that_were_generated_differently_are_noted(self, other: str | None, noted: bool) -> None:
        stored("a", "ab" * 20, details={"decoding": "greedy"})
        stored("b", "bb" * 20, details={"decoding": other} if other else {})
        result = compare("a", "b")
        assert result.exit_code == 0, result.stderr
        assert ("Answers were generated differently (greedy for A, beam search" in result.stdout) is noted
        assert json.loads(compare("a", "b", "-o", "json").stdout)["decodings"] == ["greedy", other]

    def test_margins_in_another_unit_get_no_verdict(self) -> None:
        margin: dict[str, Any] = {"name": "margin", "tuned": 2.0, "change": 2.0, "interval": [1.0, 3.0]}
        margin |= {"higherIsBetter": True, "measuredAgainst": "BaseModel"}
        for name, beta in (("a", 0.1), ("b", 1.0)):
            stored(name, "ab" * 20, predictions=False, testDigest="sha256:1", details={"beta": beta}, metrics=[margin])
        result = compare("a", "b")
        assert result.exit_code == 0, result.stderr
        assert "not comparable" in result.stdout
        assert "margin does not compare: beta, the unit of rewards, is 0.1 for A and 1 for B." in result.stdout
        (found,) = json.loads(compare("a", "b", "-o", "json").stdout)["metrics"]
        assert found["difference"] is None

    def test_different_test_examples_are_refused_unless_asked_for(self) -> None:
        names = stored("a", "ab" * 20), stored("b", "aa" * 20, gold="aa" * 20)
        result = compare(*names)
        assert (result.exit_code, result.stdout) == (65, "")
        assert "a and b were evaluated on different test examples (sha256:" in result.stderr
        shown = compare(*names, "--different-tests")
        assert shown.exit_code == 0
        assert shown.stderr.startswith("! a and b were evaluated on different test examples")
        assert "better" not in shown.stdout
        assert json.loads(compare(*names, "--different-tests", "-o", "json").stdout)["sameTest"] is False

    def test_unknown_test_examples_are_refused(self) -> None:
        result = compare(stored("a", "ab" * 20, predictions=False), stored("b", "ab" * 20))
        assert result.exit_code == 65
        assert "because a does not say" in result.stderr


class TestSides:
    def test_current_and_earlier_revision_of_a_job(self) -> None:
        record = RevisionRecord(revision=1, phase=Phase.REJECTED, spec_digest="", score="0.5")
        found = evaluation_status(an_evaluation(), "s3://adapters/team-a/intents/r3/evaluated")
        status = FineTuneJobStatus(revision=3, evaluation=found, history=(record,))
        job = a_job(status)
        current = side_of_job(job, Reference("intents"), {})
        assert (current.title, current.address) == ("intents@3", "s3://adapters/team-a/intents/r3/evaluated")
        assert current.evaluation == an_evaluation()
        earlier = side_of_job(job, Reference("intents", 1), {1: a_job(output={"uri": "s3://old"}).spec})
        assert (earlier.address, earlier.evaluation) == ("s3://old/team-a/intents/r1/evaluated", None)
        with pytest.raises(LocalError, match=r"intents has no revision 2"):
            side_of_job(job, Reference("intents", 2), {})
        with pytest.raises(LocalError, match=r"intents has no evaluation \(Pending\)"):
            side_of_job(a_job(), Reference("intents"), {})

    def test_evaluation_files_and_addresses(self) -> None:
        stored("a", "ab" * 20)
        Path("copy.json").write_text(Path("a/evaluation.json").read_text())
        Path("job.json").write_text("{}")
        file, copy, remote = (
            side_of_address(one) for one in ("a/evaluation.json", "copy.json", "s3://x/evaluation.json")
        )
        assert file
        assert copy
        assert remote
        assert (file.address, remote.address) == (Path("a").absolute().as_uri(), "s3://x")
        assert isinstance(copy.evaluation, Evaluation)
        assert side_of_address("intents@1") is None
        with pytest.raises(LocalError, match=r"job\.json is not an evaluation\.json"):
            side_of_address("job.json")
