"""What helps after the last attempt of a job, as sentences: advice that does not lead to the same failure again."""

from __future__ import annotations

from finetune_api.failures import Fault, Reason

_AFTER = {
    Reason.GATE_FAILED: "Relax the gate in spec.evaluation to evaluate the stored weights again without training, or "
    "change the training to start the next revision.",
    Reason.BAD_DATA: "Correct the data, then delete the job and apply it again; or apply a spec with other data to "
    "start the next revision.",
    Reason.DIVERGED: "The same spec would diverge again: apply one with another training to start the next revision.",
    Reason.DEADLINE_EXCEEDED: "Delete the job and apply it again to continue{resume}, with a higher "
    "resilience.activeDeadlineSeconds if that one is too short.",
    Reason.BUDGET_EXCEEDED: "Apply a spec with a larger budget to start the next revision, which asks only what has no "
    "answer yet.",
    Reason.OUT_OF_MEMORY: "Change the sizes in the spec, then delete the job and apply it again{resume}.",
}


def after_last_attempt(reason: Reason, resume: str = "") -> str:
    """What to do on a cluster after a job has failed for good.

    Args:
        reason: Why it failed.
        resume: Where the job would resume, as `` from the checkpoint at step 30``; empty for the first stage not done.
    """
    if reason in _AFTER:
        return _AFTER[reason].format(resume=resume)
    if reason.row.fault is Fault.USER:
        return (
            "Correct the cause first, as the same job would fail again. Then delete the job and apply it "
            f"again{resume}; a spec with another model, data or training only has to be applied."
        )
    return (
        f"Apply a changed spec to start the next revision, or delete the job and apply the same spec to retry{resume}."
    )
