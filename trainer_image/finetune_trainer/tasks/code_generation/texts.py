"""What the model is asked to do."""

from __future__ import annotations

from finetune_api.spec import FineTuneJobSpec
from finetune_api.tables.code import CodeLanguage

_MARK = "{#- The code follows its prompt. -#}"
PLAIN_TEMPLATE = (
    "{{#- The code follows its prompt. -#}}{bos}{{%- for message in messages -%}}"
    "{{%- if message['role'] == 'assistant' -%}}"
    "{{% generation %}}{{{{ message['content'] + eos_token }}}}{{% endgeneration %}}"
    "{{%- else -%}}"
    "{{{{ message['content'] }}}}"
    "{{%- endif -%}}"
    "{{%- endfor -%}}"
)
"""The chat template of a model without one."""
SHOTS_TEMPLATE = PLAIN_TEMPLATE.replace("+ eos_token", "+ (eos_token if loop.last else '\\n\\n\\n')")
"""Likewise, for prompts with examples."""

_SAMPLES = {
    CodeLanguage.PYTHON: "def area(width, height):\n",
    CodeLanguage.JAVASCRIPT: "function area(width, height) {\n",
    CodeLanguage.TYPESCRIPT: "function area(width: number, height: number): number {\n",
    CodeLanguage.JAVA: "static int area(int width, int height) {\n",
    CodeLanguage.GO: "func area(width int, height int) int {\n",
    CodeLanguage.RUST: "fn area(width: u32, height: u32) -> u32 {\n",
    CodeLanguage.CPP: "int area(int width, int height) {\n",
    CodeLanguage.OTHER: "area(width, height) = ",
}


def instruction(spec: FineTuneJobSpec, chat_template: str) -> str:
    """What the model is asked before the prompt: to go on, or to do what the prompt says; may be empty.

    Args:
        spec: The spec of the job.
        chat_template: That of the tokenizer; with `PLAIN_TEMPLATE`, there is no conversation.
    """
    if spec.task.instruction or _MARK in chat_template:
        return spec.task.instruction or ""
    language = spec.task.language
    kind = "" if language is CodeLanguage.OTHER else f"{language.row.title} "
    return f"Write the {kind}code that comes next, and nothing else."


def sample(language: CodeLanguage) -> str:
    """A prompt for the program in the model card."""
    return _SAMPLES[language]


def seq2seq_prefix(spec: FineTuneJobSpec) -> str:
    """What a model of T5's family sees before the prompt."""
    return f"{spec.task.instruction} " if spec.task.instruction else ""


def purpose(spec: FineTuneJobSpec) -> str:
    """For the model card."""
    return (
        "writing code" if spec.task.language is CodeLanguage.OTHER else f"writing {spec.task.language.row.title} code"
    )
