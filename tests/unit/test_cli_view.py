"""The text of a run: lines, result and JSON."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from finetune_api.evaluation import Costs, GateResult, ModelCost
from finetune_api.failures import Reason
from finetune_api.job import FineTuneJob, FineTuneJobStatus, Phase, RevisionRecord
from finetune_api.spec import Metric
from finetune_api.stage import Device, EvaluateResult, Stage, StageReport, World
from finetune_cli.local import Machine, Snapshot, StateDirectory
from finetune_cli.local.outage import outage_after
from finetune_cli.output import to_json
from finetune_cli.page import page
from finetune_cli.place import OnCluster, ThisMachine
from finetune_cli.result import comparison, document, exit_code, gate_lines, result_lines
from finetune_cli.run import logs
from finetune_cli.screen import PlainScreen, render, screen
from finetune_cli.text import PlainLines
from finetune_cli.view import View, of_job, of_run
from finetune_core.reconcile import plan
from finetune_core.runs import Observed, ObservedRun
from finetune_core.summaries import summary
from tests.builders import (
    DIGEST,
    NOON,
    a_checkpoint,
    a_job,
    a_progress,
    a_run,
    after,
    an_evaluation,
    failed,
    killed,
    succeeded,
)
from tests.usual_stages import STAGES

CPUS = World(workers=1, processes_per_worker=2, device=Device.CPU)


def a_job_after(*runs: ObservedRun, stop: bool = False, at: float = 11, **spec: Any) -> FineTuneJob:
    job = a_job(**spec)
    first = plan(job, Observed(), NOON)
    job = job.model_copy(update={"status": first.status})
    made = plan(job, Observed(runs, stop_requested=stop), after(seconds=at))
    return job.model_copy(update={"status": made.status})


def test_no_example_changes() -> None:
    gate = GateResult(metric=Metric.ACCURACY, not_worse=True, value=0.0, passed=True)
    evaluation = an_evaluation(gate, baseline=0.0, tuned=0.0)
    assert not any("the same change" in line for line in comparison(evaluation))
    score, other = evaluation.metrics
    score = score.model_copy(update={"interval": (0.0, 0.0)})
    evaluation = evaluation.model_copy(update={"metrics": (score, other)})
    assert any(line.startswith("accuracy: every test example shows the same change") for line in comparison(evaluation))
    assert gate_lines(evaluation) == ["passed  accuracy not significantly worse than the baseline: it is not better"]


def a_snapshot(
    job: FineTuneJob, run: ObservedRun | None = None, stopping: bool = False, notes: tuple[str, ...] = ()
) -> View:
    return of_run(Snapshot(job, CPUS, run, stopping, notes))


def training(stopping: bool = False, **progress: Any) -> View:
    run = a_run(Stage.TRAIN, progress=a_progress(**progress))
    return a_snapshot(a_job_after(succeeded(Stage.PREPARE), run), run, stopping)


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path)


class TestPlainLines:
    def test_start_with_a_heading(self) -> None:
        job = a_job_after(a_run(Stage.PREPARE))
        assert PlainLines().update(a_snapshot(job, notes=("This machine has no GPU.",)), 0) == [
            "team-a/intents, revision 1",
            "hf://owner/encoder, TextClassification, LoRA rank 16, 2 CPU processes",
            "note: This machine has no GPU.",
            "prepare: started",
        ]

    def test_print_each_change_once(self) -> None:
        lines = PlainLines()
        shown = a_snapshot(a_job_after(a_run(Stage.PREPARE)), notes=("Note.",))
        assert lines.update(shown, 0)
        assert lines.update(shown, 1) == []

    def test_print_the_result_of_a_stage(self) -> None:
        lines = PlainLines()
        lines.update(a_snapshot(a_job_after(a_run(Stage.PREPARE))), 0)
        printed = lines.update(a_snapshot(a_job_after(succeeded(Stage.PREPARE))), 1)
        assert printed == [
            "prepare: done in 10s: 4,967 training, 621 validation and 621 test examples, 9 labels; "
            "34 duplicates dropped",
            "train: started",
        ]

    def test_print_the_duration_without_pauses(self) -> None:
        job = a_job_after(succeeded(Stage.PREPARE, finished_at=after(hours=1)))
        paused = job.status.stage(Stage.PREPARE).model_copy(update={"paused_seconds": 3580})
        job = job.model_copy(update={"status": job.status.with_stage(paused)})
        assert any(line.startswith("prepare: done in 20s: ") for line in PlainLines().update(a_snapshot(job), 0))

    def test_print_when_an_unreachable_service_is_tried_again(self) -> None:
        job = a_job_after(failed(Stage.PREPARE, Reason.UNAVAILABLE))
        waiting = outage_after(job.status, None)
        assert PlainLines().update(replace(a_snapshot(job), outage=waiting), 0)[-1] == (
            "prepare: attempt 1 ended: prepare met Unavailable; retrying in 2s"
        )

    def test_print_progress_every_five_percent_or_ten_seconds(self) -> None:
        lines = PlainLines()
        printed = [
            bool(lines.update(training(done=done, total=100), at)[-1:])
            for done, at in [(1, 0), (2, 1), (5, 2), (6, 3), (7, 11.9), (8, 13), (8, 30)]
        ]
        assert printed == [True, False, False, True, False, True, False]

    def test_print_progress_less_often_in_a_long_run(self) -> None:
        lines = PlainLines()
        printed = [
            bool(lines.update(training(done=done, total=1000), at))
            for done, at in [(1, 0), (20, 700), (30, 720), (40, 765)]
        ]
        assert printed == [True, True, False, True]

    def test_print_the_activity_if_there_are_no_counts(self) -> None:
        lines = PlainLines()
        lines.update(training(done=None, activity="loading the model"), 0)
        assert lines.update(training(done=None, activity="building ops"), 1) == ["train: building ops"]
        assert lines.update(training(done=None, activity="building ops"), 60) == []

    def test_print_why_a_stage_is_retried(self) -> None:
        lines = PlainLines()
        lines.update(training(), 0)
        printed = lines.update(a_snapshot(a_job_after(succeeded(Stage.PREPARE), killed(Stage.TRAIN))), 1)
        assert printed == [
            "train: attempt 1 ended: train was killed by SIGKILL; if no one killed it, the memory was probably "
            "exhausted; retrying"
        ]

    def test_print_how_to_stop_at_once_and_that_only_training_saves_a_checkpoint(self) -> None:
        printed = PlainLines().update(training(stopping=True), 0)
        assert "stopping after a checkpoint; press Ctrl-C again to stop at once" in printed
        run = a_run(Stage.PREPARE)
        printed = PlainLines().update(a_snapshot(a_job_after(run), run, stopping=True), 0)
        assert "stopping; press Ctrl-C again to stop at once" in printed


class TestResult:
    def test_of_a_published_job(self, state: StateDirectory) -> None:
        job = a_job_after(*[succeeded(stage) for stage in STAGES])
        assert exit_code(job) == 0
        assert result_lines(job, ThisMachine(state)) == [
            "",
            "metric    linear probe   tuned   change      95 % interval",
            "──────────────────────────────────────────────────────────",
            "accuracy        0.7900  0.8400  +0.0500  +0.0200 … +0.0800",
            "macro_f1        0.7900  0.8400  +0.0500  +0.0200 … +0.0800",
            "on 621 test examples",
            "",
            "artifact  s3://adapters/team-a/intents/r1/artifact",
            "digest    sha256:" + "0" * 64,
            "report    s3://adapters/team-a/intents/r1/artifact/report.html",
        ]

    def test_of_a_rejected_job(self, state: StateDirectory) -> None:
        evaluation = an_evaluation(
            GateResult(metric=Metric.ACCURACY, minimum=0.9, value=0.84, passed=False),
            GateResult(metric=Metric.MACRO_F1, minimum_improvement=0.02, value=0.05, passed=True),
        )
        job = a_job_after(
            succeeded(Stage.PREPARE),
            succeeded(Stage.TRAIN),
            succeeded(Stage.EVALUATE, evaluation=evaluation),
        )
        assert job.status.evaluation
        stored = job.status.evaluation.model_copy(update={"uri": "file:///home/me/my%20out/evaluated"})
        job = job.model_copy(update={"status": job.status.model_copy(update={"evaluation": stored})})
        assert exit_code(job) == 1
        assert result_lines(job, ThisMachine(state))[-6:] == [
            "FAILED  accuracy at least 0.9: it is 0.84",
            "passed  macro_f1 better by at least 0.02: it is 0.05",
            "",
            "report    /home/me/my out/evaluated/report.html",
            "Not published: accuracy is 0.84, 0.06 below the minimum 0.9.",
            "Relax the gate in spec.evaluation to evaluate the stored weights again without training, or change the "
            "training to start the next revision.",
        ]

    def test_of_a_failed_job(self, state: StateDirectory) -> None:
        job = a_job_after(failed(Stage.PREPARE, Reason.BAD_DATA))
        log = state.path / "r1" / "prepare-1" / "log.txt"
        log.parent.mkdir(parents=True)
        log.write_text("")
        assert exit_code(job) == 65
        assert result_lines(job, ThisMachine(state))[1:] == [
            "Failed in prepare, attempt 1 (BadData): prepare met BadData.",
            "To fix this, change the manifest, the data, or the permissions of this machine.",
            f"log       {log}",
            "Run the same command to retry from the failed stage.",
        ]

    @pytest.mark.parametrize(
        ("reason", "code"), [(Reason.NOT_FOUND, 66), (Reason.DIVERGED, 76), (Reason.PERMISSION_DENIED, 77)]
    )
    def test_exit_code_is_that_of_the_failed_stage(self, reason: Reason, code: int) -> None:
        assert exit_code(a_job_after(failed(Stage.PREPARE, reason))) == code

    def test_exit_code_of_a_killed_stage(self) -> None:
        job = a_job_after(succeeded(Stage.PREPARE), killed(Stage.TRAIN), resilience={"maxRestarts": 0})
        assert exit_code(job) == 137

    def test_of_a_stopped_job(self, state: StateDirectory) -> None:
        stopped = failed(Stage.TRAIN, Reason.STOPPED)
        report = stopped.report.model_copy(update={"checkpoint": a_checkpoint(240)}) if stopped.report else None
        job = a_job_after(succeeded(Stage.PREPARE), failed(Stage.TRAIN, Reason.STOPPED, report=report), stop=True)
        assert exit_code(job) == 130
        assert result_lines(job, ThisMachine(state)) == [
            "",
            "Stopped after the checkpoint of step 240; run the same command to resume.",
        ]

    def test_of_a_job_stopped_before_its_first_checkpoint(self, state: StateDirectory) -> None:
        job = a_job_after(failed(Stage.PREPARE, Reason.STOPPED), stop=True)
        assert result_lines(job, ThisMachine(state))[-1] == "Stopped in prepare; run the same command to resume."

    def test_json_document(self, state: StateDirectory) -> None:
        job = a_job_after(*[succeeded(stage) for stage in STAGES])
        read = json.loads(to_json(document(job, logs(job, state), exit_code(job))))
        assert (read["phase"], read["exitCode"], read["failure"]) == ("Succeeded", 0, None)
        assert read["artifact"]["digest"].startswith("sha256:")
        assert read["evaluation"]["metrics"][0]["tuned"] == 0.84
        assert FineTuneJob.model_validate_json(json.dumps(read["job"])) == job


class TestScreens:
    def test_without_a_terminal_there_are_no_control_characters(self) -> None:
        stream = io.StringIO()
        with screen(stream) as shown:
            shown.show(training())
        assert isinstance(shown, PlainScreen)
        assert "\x1b" not in stream.getvalue()
        assert "train: 40/120 steps (33 %)" in stream.getvalue()

    def test_json_output_prints_nothing_without_a_terminal(self) -> None:
        stream = io.StringIO()
        with screen(stream, quiet=True) as shown:
            shown.show(training())
        assert stream.getvalue() == ""

    def test_closed_output_does_not_stop_the_job(self) -> None:
        tried = []

        class Closed(io.StringIO):
            def write(self, text: str) -> int:
                tried.append(text)
                raise BrokenPipeError

        PlainScreen(Closed()).show(training())
        assert tried

    def test_live_view_shows_every_stage(self) -> None:
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(render(training(loss=0.5, tokens_per_second=900.0, eta_seconds=80)))
        shown = console.export_text()
        assert "✔ prepare  done in 10s: 4,967 training" in shown
        assert "train    40/120 steps (33 %), loss 0.5000, 900 tokens/s, 1m20s left" in shown
        assert "· publish" in shown

    def test_counts_down_to_the_next_attempt(self) -> None:
        job = a_job_after(failed(Stage.PREPARE, Reason.UNAVAILABLE))
        waiting = outage_after(job.status, None)
        assert waiting
        waiting = replace(waiting, retry_at=datetime.now(UTC) + timedelta(minutes=2))
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(render(replace(a_snapshot(job), outage=waiting)))
        assert re.search(
            r"! prepare: attempt 1 ended: prepare met Unavailable; retrying in [12]m", console.export_text()
        )


class TestMachine:
    @pytest.mark.parametrize(
        ("gpus", "cores", "wanted", "batch", "got"),
        [
            (8, 4, (2, 4, Device.GPU), 32, (8, Device.GPU)),
            (2, 4, (2, 4, Device.GPU), 32, (2, Device.GPU)),
            (0, 4, (2, 4, Device.GPU), 32, (4, Device.CPU)),
            (3, 4, (1, 4, Device.GPU), 32, (2, Device.GPU)),
            (0, 2, (2, 1, Device.CPU), 32, (2, Device.CPU)),
            (4, 2, (2, 1, Device.CPU), 32, (2, Device.CPU)),
            (0, 7, (6, 1, Device.CPU), 9, (3, Device.CPU)),
        ],
    )
    def test_fits_the_world_to_the_hardware(
        self, gpus: int, cores: int, wanted: tuple[int, int, Device], batch: int, got: tuple[int, Device]
    ) -> None:
        world = World(workers=wanted[0], processes_per_worker=wanted[1], device=wanted[2])
        fitted = Machine(gpus=gpus, cores=cores).fit(world, batch)
        assert (fitted.workers, fitted.processes_per_worker, fitted.device) == (1, *got)

    @pytest.mark.parametrize(
        ("gpus", "note"),
        [
            (8, None),
            (2, "The spec requests 8 GPUs; this machine has 2 GPUs, so training runs on 2 GPUs."),
            (0, "The spec requests 8 GPUs; this machine has no GPU and 4 cores, so training runs on 4 CPU processes."),
        ],
    )
    def test_notes_a_reduced_world(self, gpus: int, note: str | None) -> None:
        wanted = World(workers=2, processes_per_worker=4, device=Device.GPU)
        assert Machine(gpus=gpus, cores=4).note(wanted, 32) == note

    @pytest.mark.parametrize(
        ("visible", "count"), [(None, 2), ("", 0), ("-1", 0), ("0", 1), ("1,0", 2), ("0,-1,1", 1), ("0,1,2,3", 2)]
    )
    def test_counts_gpus_as_cuda_visible_devices_does(self, visible: str | None, count: int) -> None:
        from finetune_cli.local.machine import visible_gpus

        assert visible_gpus(2, visible) == count


def test_earlier_revisions_are_in_the_order_of_finetune_history() -> None:
    records = tuple(RevisionRecord(revision=number, phase=Phase.SUPERSEDED, spec_digest="") for number in (1, 3, 2))
    job = a_job(FineTuneJobStatus(revision=4, history=records))
    lines = page(of_job(job), "Pending", OnCluster("team-a", "intents"))
    assert lines[-4:] == ["earlier revisions", "r1  Superseded", "r2  Superseded", "r3  Superseded"]


def test_a_teacher_has_a_column_and_a_line_of_size_and_speed() -> None:
    gate = GateResult(metric=Metric.ACCURACY, not_worse=True, value=0.1, passed=True)
    plain = an_evaluation(gate, baseline=0.5, tuned=0.6)
    assert not any("teacher" in line for line in comparison(plain))
    student = ModelCost(parameters=1_000, bytes=4_000, rows_per_second=20, tokens_per_second=2_000)
    teacher = ModelCost(parameters=3_000, bytes=12_000, rows_per_second=10, tokens_per_second=1_000)
    first, *others = plain.metrics
    taught = plain.model_copy(
        update={
            "metrics": (first.model_copy(update={"teacher": 0.7}), *others),
            "costs": Costs(student=student, teacher=teacher, device="cpu"),
        }
    )
    lines = comparison(taught)
    assert lines[0].split()[:4] == ["metric", "linear", "probe", "tuned"]
    assert "teacher" in lines[0]
    assert lines[2].split()[:4] == ["accuracy", "0.5000", "0.6000", "0.7000"]
    assert lines[3].split()[3] == "–"
    assert (
        "student 1,000 parameters, 4.0 kB, 2,000 tokens/s; teacher 3,000 parameters, 12.0 kB, 1,000 tokens/s, on cpu; "
        "the student closes 50 % of the gap from the baseline to the teacher"
    ) in lines
    worse = taught.model_copy(update={"metrics": (taught.metrics[0].model_copy(update={"change": -0.1}), *others)})
    assert any(
        line.endswith("the student is further from the teacher than the baseline is") for line in comparison(worse)
    )
    report = StageReport(
        stage=Stage.EVALUATE,
        attempt=1,
        seconds=1,
        result=EvaluateResult(uri="s3://adapters/evaluated", digest=DIGEST, evaluation=taught),
    )
    assert summary(report) == (
        "accuracy 0.6000, linear probe 0.5000 (+0.1000, better), teacher 0.7000, on 621 test examples"
    )


@pytest.mark.parametrize(
    ("baseline", "tuned", "teacher", "higher", "share"),
    [
        (0.5, 0.6, 0.7, True, 0.5),
        (4.0, 3.0, 2.0, False, 0.5),
        (0.7, 0.8, 0.6, True, None),
        (0.5, 0.6, None, True, None),
    ],
)
def test_the_gap_to_a_teacher(
    baseline: float, tuned: float, teacher: float | None, higher: bool, share: float | None
) -> None:
    metric = an_evaluation(baseline=baseline, tuned=tuned).metrics[0]
    changes = {"teacher": teacher, "higher_is_better": higher, "change": tuned - baseline}
    found = metric.model_copy(update=changes).gap_closed
    assert found == (None if share is None else pytest.approx(share))
