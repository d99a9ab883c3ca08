"""Chat templates of prompts."""

from __future__ import annotations

import json
from typing import Any

from finetune_trainer.search.prompt import Prompt

_MARK = "{{#- An empty line ends an answer. -#}}"
SHOTS_TEMPLATE = (
    _MARK + "{bos}{{%- for message in messages -%}}"
    "{{%- if message['role'] == 'assistant' -%}}"
    "{{% generation %}}{{{{ message['content'] + (eos_token if loop.last else '\\n\\n') }}}}{{% endgeneration %}}"
    "{{%- else -%}}"
    "{{{{ message['content'] + '\\n\\n' }}}}"
    "{{%- endif -%}}"
    "{{%- endfor -%}}"
)
"""The chat template of a model without one: the text of a row, and its answer after an empty line. Between examples
there is no end-of-sequence token: many models do not look back behind it."""


def until_empty_line(tokenizer: Any) -> bool:
    """Whether an answer of the model ends at an empty line, because the next example would follow."""
    return _MARK.format() in str(getattr(tokenizer, "chat_template", None) or "")


def with_prompt(template: str, prompt: Prompt, placeholder: str) -> str:
    """``template`` with a prompt around the last message, which has the text of a user alone.

    Args:
        template: The chat template of the model.
        prompt: The prompt.
        placeholder: Name of the only text.
    """
    before, _, after = prompt.instruction.partition(f"{{{placeholder}}}")
    # An instruction may name the text more than once.
    rest = [f"{_quoted(part)}" for part in after.split(f"{{{placeholder}}}")]
    text = "messages[-1]['content']"
    content = f" ~ {text} ~ ".join([_quoted(before), *rest])
    shots = ", ".join(
        f"{{'role': {_quoted(message['role'])}, 'content': {_quoted(message['content'])}}}" for message in prompt.before
    )
    listed = f"[{shots}{', ' if shots else ''}{{'role': 'user', 'content': {content}}}]"
    return f"{{%- set messages = {listed} -%}}\n{template}"


def _quoted(text: str) -> str:
    """A literal of Jinja, whose strings have the escapes of JSON."""
    return json.dumps(text, ensure_ascii=False)
