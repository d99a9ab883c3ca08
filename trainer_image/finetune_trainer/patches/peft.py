"""What PEFT is used differently for than its documentation says."""

from __future__ import annotations

VERSION = "0.21.2"
"""The version that this was checked with."""


def task_type_of(adapter_task: str) -> str | None:
    """The ``task_type`` of the configuration of an adapter; None for the class `peft.PeftModel`.

    Its class for QUESTION_ANS drops the ``token_type_ids``, without which an encoder cannot tell the question from the
    context; the general class passes all inputs on. Source: PeftModelForQuestionAnswering.forward in
    peft/peft_model.py.

    Args:
        adapter_task: PEFT task type, such as CAUSAL_LM.
    """
    return None if adapter_task == "QUESTION_ANS" else adapter_task
