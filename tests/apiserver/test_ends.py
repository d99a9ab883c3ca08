"""How stages end and how that is reported: exit codes, deleted pods, pods that never start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_api.stage import StageError, StageReport
from finetune_api.tables.reasons import REASONS
from tests.apiserver.api import conditions
from tests.apiserver.desk import Desk, Operator, condition, stage
from tests.apiserver.kubelet import message, stage_of

SETTINGS = {
    "trainer": {
        "image": "finetune-trainer:test",
        "stages": {"prepare": {"resources": {"limits": {"memory": "2Gi"}}}},
    }
}
CONDITION_OF = {"prepare": "DataPrepared", "train": "Trained", "evaluate": "Evaluated", "publish": "Published"}

Job = dict[str, Any]


@dataclass(frozen=True)
class End:
    """One way in which the first attempt of a stage ends, and the expected report."""

    name: str
    play: Callable[[Desk, Job], None]
    reason: Reason
    retried: bool
    expected: str
    counted: bool = True
    stage: str = "prepare"
    exit_code: int | None = None
    rank: int | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)

    @property
    def restarts(self) -> int:
        return int(self.retried and self.counted)


RETRIED = {
    Reason.UNAVAILABLE: False,
    Reason.STOPPED: False,
    Reason.GPU_UNAVAILABLE: True,
    Reason.INTERNAL_ERROR: True,
    Reason.KILLED: True,
}
"""Reasons that are retried, and whether that counts."""


def error_message(job: Job, reason: Reason, sentence: str, code: int, rank: int | None = None) -> str:
    """The termination message of a stage that failed."""
    name, attempt = stage_of(job)
    error = StageError(reason=reason, message=sentence, exit_code=code, rank=rank)
    return message(StageReport(stage=name, attempt=attempt, seconds=1.0, error=error))


def with_code(name: str, play: Callable[[Desk, Job], None], reason: Reason, expected: str, code: int) -> End:
    """An end whose reason alone decides whether the stage is retried."""
    counted = RETRIED.get(reason, True)
    return End(name, play, reason, reason in RETRIED, expected, counted, exit_code=code)


def without_report(code: int, reason: Reason, expected: str) -> End:
    """A container that ends without a report."""

    def play(desk: Desk, job: Job) -> None:
        (pod,) = desk.kubelet.run(job)
        desk.kubelet.ended(pod, code)
        if code:
            desk.kubelet.fail(job)
        else:
            desk.kubelet.complete(job)

    return with_code(f"without-report-{code}", play, reason, expected, code)


def spoken(reason: Reason) -> End:
    """A stage that reports why it ends."""
    code = reason.exit_code
    sentence = f"intents.jsonl:7 met {reason}."

    def play(desk: Desk, job: Job) -> None:
        desk.kubelet.break_(job, code, StageError(reason=reason, message=sentence, exit_code=code))

    return with_code(f"spoken-{reason.lower()}", play, reason, sentence, code)


def pod_end(
    name: str, end: Callable[[Desk, Job], object], reason: Reason, expected: str, *, retried: bool, **more: Any
) -> End:
    """A pod that is disrupted while it runs."""

    def play(desk: Desk, job: Job) -> None:
        (pod,) = desk.kubelet.run(job)
        end(desk, pod)
        desk.kubelet.fail(job)

    return End(name=name, play=play, reason=reason, retried=retried, expected=expected, **more)


def gang(ends_in: tuple[str, str], reason: Reason, expected: str, *, retried: bool, **more: Any) -> End:
    """Two workers, of which the second ends first and the other one as a consequence."""
    first, echo = ends_in

    def play(desk: Desk, job: Job) -> None:
        main, other = desk.kubelet.run(job)
        ends: dict[str, Callable[[Mapping[str, Any], int], object]] = {
            "diverged": lambda pod, rank: desk.kubelet.ended(
                pod, 76, error_message(job, Reason.DIVERGED, "The loss is NaN at step 12.", 76, rank)
            ),
            "oom": lambda pod, _: desk.kubelet.ended(pod, 137, reason="OOMKilled"),
            "lost": lambda pod, _: desk.kubelet.lost(pod),
            "broken connection": lambda pod, rank: desk.kubelet.ended(
                pod, 70, error_message(job, Reason.INTERNAL_ERROR, "Connection closed by peer.", 70, rank)
            ),
            "stopped": lambda pod, rank: desk.kubelet.ended(
                pod, 75, error_message(job, Reason.STOPPED, "Stopped.", 75, rank)
            ),
            "killed": lambda pod, _: desk.kubelet.ended(pod, 143),
        }
        # The kubelet of the other worker may report later.
        ends[echo](main, 0)
        ends[first](other, 1)
        desk.kubelet.fail(job)

    spec = {"distributed": {"workers": 2, "gpusPerWorker": 0}}
    name = f"gang-{first}-{echo}".replace(" ", "-")
    return End(
        name=name, play=play, reason=reason, retried=retried, expected=expected, stage="train", spec=spec, **more
    )


def refused_by_its_node(desk: Desk, job: Job) -> None:
    pod = desk.kubelet.create_pod(job, 0)
    why = "Pod was rejected: Allocate failed due to no healthy devices present"
    desk.kubelet.evicted(pod, "UnexpectedAdmissionError", why)
    desk.kubelet.fail(job)


ENDS = (
    without_report(0, Reason.INTERNAL_ERROR, "prepare exited with code 0 but reported no result; see its log."),
    without_report(64, Reason.BAD_CONFIGURATION, "prepare ended with exit code 64; see its log."),
    without_report(65, Reason.BAD_DATA, "exit code 65"),
    without_report(66, Reason.NOT_FOUND, "exit code 66"),
    without_report(69, Reason.UNAVAILABLE, "exit code 69"),
    without_report(70, Reason.INTERNAL_ERROR, "exit code 70"),
    without_report(75, Reason.STOPPED, "prepare was stopped."),
    without_report(76, Reason.DIVERGED, "exit code 76"),
    without_report(77, Reason.PERMISSION_DENIED, "exit code 77"),
    without_report(78, Reason.DISK_FULL, "exit code 78"),
    without_report(1, Reason.INTERNAL_ERROR, "prepare ended with exit code 1; see its log."),
    without_report(
        137, Reason.KILLED, "prepare was killed by SIGKILL; if no one killed it, the memory was probably exhausted."
    ),
    without_report(139, Reason.INTERNAL_ERROR, "prepare crashed with SIGSEGV; see its log."),
    without_report(143, Reason.KILLED, "prepare was killed by SIGTERM"),
    without_report(255, Reason.INTERNAL_ERROR, "exit code 255"),
    # RevisionTaken is not an end: the job continues as the next revision (test_suspend.py).
    *(spoken(reason) for reason, row in REASONS.items() if row.exit_code and reason is not Reason.REVISION_TAKEN),
    pod_end(
        "last-words",
        lambda desk, pod: desk.kubelet.ended(
            pod, 2, "Traceback:\n  File x\nModuleNotFoundError: No module named 'a'\n"
        ),
        Reason.INTERNAL_ERROR,
        "Worker 0 ended with exit code 2; last log line: ModuleNotFoundError: No module named 'a'.",
        retried=True,
        exit_code=2,
    ),
    pod_end(
        "oom",
        lambda desk, pod: desk.kubelet.ended(pod, 137, reason="OOMKilled"),
        Reason.OUT_OF_MEMORY,
        "Worker 0 was killed because it needed more memory than its limit of 2Gi, its peak use: raise the limit, "
        "or lower training.maxBatchSizePerDevice or training.maxSequenceLength.",
        retried=False,
        exit_code=137,
    ),
    pod_end(
        "node-pressure",
        lambda desk, pod: desk.kubelet.evicted(
            pod, "Evicted", "The node was low on resource: memory. Threshold quantity: 100Mi.", code=137
        ),
        Reason.STOPPED,
        "Worker 0 was disrupted: The node was low on resource: memory. Threshold quantity: 100Mi.",
        retried=True,
        counted=False,
        exit_code=137,
        spec={"resilience": {"maxRestarts": 0}},
    ),
    *(
        pod_end(
            f"own-disk-{number}",
            lambda desk, pod, text=text: desk.kubelet.evicted(pod, "Evicted", text, code=137),
            Reason.DISK_FULL,
            f"Worker 0 was evicted: {text.strip()}",
            retried=False,
            exit_code=137,
        )
        for number, text in enumerate(
            (
                'Usage of EmptyDir volume "workspace" exceeds the limit "50Gi". ',
                'Container trainer exceeded its local ephemeral storage limit "1Gi". ',
                "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
            )
        )
    ),
    pod_end(
        "preempted",
        lambda desk, pod: desk.kubelet.ended(pod, 143, disrupted="PreemptionByScheduler"),
        Reason.STOPPED,
        "Worker 0 was disrupted: PreemptionByScheduler took the pod.",
        retried=True,
        counted=False,
        exit_code=143,
        spec={"resilience": {"maxRestarts": 0}},
    ),
    pod_end(
        "node-lost",
        lambda desk, pod: desk.kubelet.lost(pod),
        Reason.STOPPED,
        "Worker 0 was disrupted: Taint manager: deleting due to NoExecute taint.",
        retried=True,
        counted=False,
        exit_code=70,
        spec={"resilience": {"maxRestarts": 0}},
    ),
    pod_end(
        "node-shutdown",
        lambda desk, pod: desk.kubelet.evicted(
            pod, "Terminated", "Pod was terminated in response to imminent node shutdown.", code=143
        ),
        Reason.STOPPED,
        "Worker 0 was disrupted: Pod was terminated in response to imminent node shutdown.",
        retried=True,
        counted=False,
        exit_code=143,
    ),
    End(
        name="refused-by-its-node",
        play=refused_by_its_node,
        reason=Reason.KILLED,
        retried=True,
        expected="Worker 0 was rejected by its node (UnexpectedAdmissionError): Pod was rejected: Allocate failed",
        exit_code=70,
    ),
    gang(
        ("diverged", "broken connection"),
        Reason.DIVERGED,
        "The loss is NaN at step 12.",
        retried=False,
        exit_code=76,
        rank=1,
    ),
    gang(
        ("oom", "broken connection"),
        Reason.OUT_OF_MEMORY,
        "Worker 1 was killed because it needed more memory than the memory of its node",
        retried=False,
        exit_code=137,
    ),
    gang(
        ("lost", "broken connection"),
        Reason.STOPPED,
        "Worker 1 was disrupted",
        retried=True,
        counted=False,
        exit_code=70,
    ),
    gang(
        ("broken connection", "killed"),
        Reason.INTERNAL_ERROR,
        "Connection closed by peer.",
        retried=True,
        exit_code=70,
        rank=1,
    ),
    gang(("diverged", "stopped"), Reason.DIVERGED, "The loss is NaN", retried=False, exit_code=76, rank=1),
)


@pytest.fixture(scope="module")
def desk_of_all(office: tuple[Desk, Operator]) -> tuple[Desk, dict[str, Exception]]:
    """A desk with one job for each end; errors of the simulation by name."""
    desk, _ = office
    wrong: dict[str, Exception] = {}
    for end in ENDS:
        desk.apply(end.name, **end.spec)
    for end in ENDS:
        try:
            end.play(desk, desk.run_to(end.stage, end.name))
        except Exception as error:
            wrong[end.name] = error
    return desk, wrong


class TestFirstAttemptOfAStage:
    @pytest.mark.parametrize("end", ENDS, ids=lambda end: end.name)
    def test_end_is_reported_with_its_cause(self, desk_of_all: tuple[Desk, dict[str, Exception]], end: End) -> None:
        desk, wrong = desk_of_all
        if end.name in wrong:
            raise wrong[end.name]
        status = desk.until(lambda status: status.get("failure"), "it failed", end.name)
        failure = status["failure"]
        assert end.expected in failure["message"]
        assert (failure["reason"], failure["fault"]) == (end.reason, end.reason.row.fault)
        assert (failure["stage"], failure["attempt"], failure["retried"]) == (end.stage, 1, end.retried)
        assert (failure.get("exitCode"), failure.get("rank")) == (end.exit_code, end.rank)
        if end.retried:
            self.goes_on(desk, end)
        else:
            self.is_over(desk, end)

    @staticmethod
    def goes_on(desk: Desk, end: End) -> None:
        desk.child(end.stage, attempt=2, name=end.name)
        status = desk.until(lambda status: stage(status, end.stage)["attempt"] == 2, "the next attempt", end.name)
        assert stage(status, end.stage)["restarts"] == end.restarts
        assert condition(status, "Ready")["status"] == "Unknown"
        assert condition(status, "Stalled")["status"] == "False"
        assert condition(status, "Reconciling")["reason"] == "Retrying"
        assert end.expected in condition(status, "Reconciling")["message"]
        type_, reason = ("Normal", "Disrupted") if end.reason is Reason.STOPPED else ("Warning", end.reason)
        event = desk.until_event(reason, end.name)
        assert event["type"] == type_
        assert end.expected in event["message"]
        assert "is retried" in event["message"]

    @staticmethod
    def is_over(desk: Desk, end: End) -> None:
        status = desk.until_phase("Failed", end.name)
        assert status["completionTime"]
        assert stage(status, end.stage)["state"] == "Failed"
        for type_, truth in ((CONDITION_OF[end.stage], "False"), ("Ready", "False"), ("Stalled", "True")):
            found = condition(status, type_)
            assert (found["status"], found["reason"]) == (truth, end.reason)
            assert end.expected in found["message"]
        assert condition(status, "Reconciling")["status"] == "False"
        assert desk.until_event(end.reason, end.name)["type"] == "Warning"
        left = desk.api.list("Job", desk.namespace, labelSelector=f"finetune.dev/job={end.name}")
        assert all({"Complete", "Failed"} & set(conditions(job)) for job in left)


class TestWholeJob:
    def test_fails_at_its_deadline(self, office: tuple[Desk, Operator]) -> None:
        desk, _ = office
        desk.apply("late", resilience={"activeDeadlineSeconds": 1})
        job = desk.child("prepare", name="late")
        desk.kubelet.run(job)
        desk.being_ended(job)
        status = desk.until(lambda status: status.get("failure"), "it is reported", "late")
        assert condition(status, "Reconciling")["reason"] == "Ending"
        assert "completionTime" not in status
        desk.kubelet.stopped(job, 143)
        status = desk.until_phase("Failed", "late")
        failure = status["failure"]
        assert (failure["reason"], failure["fault"], failure["retried"]) == ("DeadlineExceeded", "User", False)
        assert failure["message"] == (
            "The job did not finish within resilience.activeDeadlineSeconds (1 s); it was in stage prepare. Raise the "
            "limit, or make the job smaller."
        )
        desk.until_event("DeadlineExceeded", "late")
        assert stage(status, "prepare")["attempt"] == 1

    def test_fails_when_its_restarts_are_used_up(self, office: tuple[Desk, Operator]) -> None:
        desk, _ = office
        desk.apply("unlucky", resilience={"maxRestarts": 1})
        desk.kubelet.break_(desk.child("prepare", name="unlucky"), 137)
        desk.kubelet.break_(desk.child("prepare", attempt=2, name="unlucky"), 137)
        status = desk.until_phase("Failed", "unlucky")
        failure = status["failure"]
        assert (failure["reason"], failure["attempt"], failure["retried"]) == ("Killed", 2, False)
        assert failure["message"].endswith("Not retried after 1 restart (resilience.maxRestarts).")
        assert stage(status, "prepare")["restarts"] == 1
        names = [job["metadata"]["name"] for job in desk.children() if "unlucky" in job["metadata"]["name"]]
        assert sorted(names) == ["unlucky-r1-prepare-1", "unlucky-r1-prepare-2"]

    def test_continues_when_its_pods_are_deleted(self, office: tuple[Desk, Operator]) -> None:
        desk, _ = office
        desk.apply("robbed")
        job = desk.child("prepare", name="robbed")
        desk.kubelet.run(job)
        desk.until(lambda status: stage(status, "prepare")["state"] == "Running", "it runs", "robbed")
        desk.api.delete("Job", "robbed-r1-prepare-1", desk.namespace, propagationPolicy="Background")
        status = desk.until(lambda status: status.get("failure"), "it is reported", "robbed")
        assert status["failure"]["message"] == (
            "prepare, attempt 1, disappeared before it ended: its Job or process was removed."
        )
        desk.child("prepare", attempt=2, name="robbed")
