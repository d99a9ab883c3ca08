"""CodeGeneration on decoders: a row is a prompt and the code that follows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.modelling.tokenizer import Decode, encoding_explained, plain_backend, plain_decode, with_begin
from finetune_trainer.prepare.arrays import integers, texts, token_lists
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.special_tokens import AnswerTokens
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.tasks.code_generation.texts import PLAIN_TEMPLATE, instruction
from finetune_trainer.tasks.code_generation.white_space import CodeTokens, backend_encode, code_tokens
from finetune_trainer.tasks.instruction_tuning.messages import ASSISTANT, Conversation
from finetune_trainer.tasks.instruction_tuning.rendering import ChatRenderer
from finetune_trainer.tasks.instruction_tuning.tokens import ANSWER_FIELDS, no_end_token, special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_PROBE = ("\n  prompt:\n", "    answer\n\n")
_PLACEHOLDER = "answer"


@dataclass(frozen=True, slots=True)
class _Row:
    """The texts of a row as the model sees them."""

    prompt: str
    before: str
    """What the chat template writes before the code, such as an empty thinking block; it is learned."""
    after: str
    """The token that ends the code; empty where it is the end-of-sequence token."""


class CausalCodeEncoder:
    """Tokenises prompts and completions for decoders.

    A row that is too long is invalid: without its end it would teach to stop anywhere, and without its beginning the
    prompt would be another program.
    """

    def __init__(self, spec: FineTuneJobSpec, tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
        """The chat template of ``tokenizer`` is replaced where it strips white space.

        Raises:
            StageFailure: BadConfiguration when the tokenizer does not keep white space.
        """
        self._max_length = max_length
        self.answers = AnswerTokens()
        self.notes: tuple[str, ...] = ()
        if _strips(tokenizer):
            tokenizer.chat_template = with_begin(tokenizer, PLAIN_TEMPLATE)
            self.notes = (
                f"the chat template of {spec.model.uri} strips white space, which is content in code, so the model "
                "learns that the code follows its prompt, without that template",
            )
        asked = instruction(spec, str(tokenizer.chat_template))
        self.prefix = f"{asked}\n\n" if asked else ""
        self._end = tokenizer.eos_token_id
        self._special = special_tokens(tokenizer)
        self._encode = backend_encode(plain_backend(tokenizer))
        self._tokens = _code_tokens(tokenizer, spec.model.uri)
        self._renderer = ChatRenderer(tokenizer)

    @property
    def fields(self) -> list[pa.Field]:
        return list(ANSWER_FIELDS)

    def encode(self, sources: Sequence[str], targets: Sequence[str]) -> Encoded:
        """Tokenise prompts and completions."""
        problems: dict[int, BadRow] = {}
        rendered: dict[int, _Row] = {}
        for index, pair in enumerate(zip(sources, targets, strict=True)):
            try:
                rendered[index] = self._rendered(*pair)
            except BadRow as problem:
                problems[index] = problem
        with encoding_explained():
            prompts = self._encode([row.prompt for row in rendered.values()])
            codes = self._tokens.encode([targets[index] for index in rendered])
            befores, afters = (
                self._encode([getattr(row, name) for row in rendered.values()]) for name in ("before", "after")
            )
        decoded = self._tokens.decode(codes)
        ids, labels, lengths, kept = [], [], [], []
        for position, index in enumerate(rendered):
            prompt, learned = prompts[position], [*befores[position], *codes[position]]
            try:
                end = self._ended(afters[position])
                self._check(targets[index], decoded[position], len(prompt), len(learned) + len(end))
            except BadRow as problem:
                problems[index] = problem
                continue
            self.answers.ends[end[-1]] += 1
            self.answers.inside.update(self._special.intersection([*learned, *end[:-1]]))
            ids.append([*prompt, *learned, *end])
            labels.append([*[IGNORED_LABEL] * len(prompt), *learned, *end])
            lengths.append(len(prompt))
            kept.append(index)
        columns = {
            "input_ids": token_lists(ids),
            "labels": token_lists(labels),
            "prompt_length": integers(np.asarray(lengths, np.int32)),
            "reference": texts([targets[index] for index in kept]),
            "prompt": texts([sources[index] for index in kept]),
        }
        return Encoded(columns, np.zeros(len(kept), np.bool_), problems)

    def prompts(self, sources: Sequence[str]) -> list[list[int]]:
        """The tokens that the model gets for prompts without a completion.

        Raises:
            BadRow: A prompt cannot be rendered.
        """
        with encoding_explained():
            return self._encode([self._rendered(source, _PLACEHOLDER).prompt for source in sources])

    def _rendered(self, source: str, target: str) -> _Row:
        messages = [{"role": "user", "content": self.prefix + source}, {"role": ASSISTANT, "content": target}]
        rendered = self._renderer.render(Conversation(messages, learned=(False, True)))
        (start, end), lacks_end = rendered.answers[-1].span, rendered.answers[-1].lacks_end
        start = rendered.answers[0].span[0]
        place = rendered.text.find(target, start)
        if place < 0:
            raise BadRow("the model's chat template changes the completion; use another chat template")
        after = "" if lacks_end else rendered.text[place + len(target) : end]
        return _Row(rendered.text[:start], rendered.text[start:place], after)

    def _ended(self, after: list[int]) -> list[int]:
        """``after``, or the end-of-sequence token where the chat template writes none."""
        if after:
            return after
        if self._end is None:
            raise no_end_token()
        return [self._end]

    def _check(self, completion: str, decoded: str, prompt: int, answer: int) -> None:
        """
        Raises:
            BadRow: The completion does not come back from its tokens, there is no prompt, or the row is too long.
        """
        if not prompt:
            raise BadRow("nothing is before the completion, so there is no prompt; add one")
        check_comes_back(completion, decoded)
        if prompt + answer > self._max_length:
            raise BadRow(
                f"prompt and completion have {prompt + answer} tokens, more than the sequence length of "
                f"{self._max_length}; shorten them, or raise training.maxSequenceLength if the model supports more"
            )


def decode_code(tokenizer: PreTrainedTokenizerFast) -> Decode:
    """How ``tokenizer`` decodes code that follows a prompt."""
    return _code_tokens(tokenizer, "the model").decode


def _code_tokens(tokenizer: PreTrainedTokenizerFast, model_uri: str) -> CodeTokens:
    return code_tokens(backend_encode(plain_backend(tokenizer)), plain_decode(tokenizer), model_uri)


def check_comes_back(completion: str, decoded: str) -> None:
    """
    Raises:
        BadRow: ``decoded``, made of the tokens of ``completion``, is another text.
    """
    if completion == decoded:
        return
    pairs = zip(completion, decoded, strict=False)
    place = next(
        (index for index, (one, other) in enumerate(pairs) if one != other), min(len(completion), len(decoded))
    )
    raise BadRow(
        f"the tokenizer of the model does not give the completion back: {completion[place : place + 20]!r} becomes "
        f"{decoded[place : place + 20]!r}; correct the row, or use another model"
    )


def _strips(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the chat template strips white space from messages."""
    try:
        text = str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": _PROBE[0]}, {"role": ASSISTANT, "content": _PROBE[1]}], tokenize=False
            )
        )
    except Exception:  # The template is the code of somebody else; the rows say what is wrong with it.
        return False
    return not all(part in text for part in _PROBE)
