"""A teacher that answers prompts on the device of this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.endpoint.known import Enough, Known, look_up
from finetune_trainer.endpoint.messages import Answer, Failed, Outcome, Question
from finetune_trainer.endpoint.stopping import StopRequest
from finetune_trainer.endpoint.store import AnswerStore
from finetune_trainer.endpoint.usage import Usage
from finetune_trainer.evaluate.generation import LIMITS, Generator
from finetune_trainer.evaluate.metrics import Ints
from finetune_trainer.modelling.batching import each_batch
from finetune_trainer.modelling.precision import Hardware
from finetune_trainer.modelling.teacher import load_teacher
from finetune_trainer.prepared import DataReport
from finetune_trainer.teachers import FIELD
from finetune_trainer.teaching.answering import Asked
from finetune_trainer.teaching.generating import GeneratingTeacher


@contextmanager
def local_answering(  # noqa: PLR0917 — the last two are those of `OpenAnswering`.
    teacher: GeneratingTeacher,
    weights: Callable[[], Path],
    report: DataReport,
    hardware: Hardware,
    store: AnswerStore,
    on_progress: Callable[[int], None],
) -> Iterator[LocalAnswering]:
    """The teacher as what answers. SIGTERM ends the asking after a batch; arguments as of `LocalAnswering`."""
    with StopRequest() as stop:
        yield LocalAnswering(teacher, weights, report, hardware, store, on_progress=on_progress, stop=stop)
        store.flush()  # Before SIGTERM ends this process at once again.


class LocalAnswering:
    """Implements `finetune_trainer.teaching.answering.Answering`.

    The teacher is loaded when the first prompt is not in the store.

    Args:
        teacher: The teacher.
        weights: Fetches its weights; returns their directory.
        report: What prepare has found.
        hardware: Device and precision.
        store: Keeps the answers.
        on_progress: Called with the number of prompts of this call of `ask` that are done.
        stop: Ends the asking after a batch, on request.
    """

    def __init__(
        self,
        teacher: GeneratingTeacher,
        weights: Callable[[], Path],
        report: DataReport,
        hardware: Hardware,
        store: AnswerStore,
        *,
        on_progress: Callable[[int], None],
        stop: StopRequest,
    ) -> None:
        self.usage = Usage()
        self._teacher = teacher
        self._weights = weights
        self._report = report
        self._hardware = hardware
        self._store = store
        self._on_progress = on_progress
        self._stop = stop
        form = teacher.form.answer_form()
        assert form is not None
        self._form = form

    def ask(self, prompts: Sequence[Asked], later: int, enough: Enough) -> list[Outcome]:
        """See `finetune_trainer.teaching.answering.Answering.ask`."""
        known = look_up(self._store, self.usage, [self._key(one.question) for one in prompts], prompts, enough)
        if known.pending and not known.ended:
            self._generate(known)
        return known.listed()

    def _generate(self, known: Known[Asked]) -> None:
        """Generate the answers that are pending, until there are enough."""
        pending, outcomes, enough = known.pending, known.outcomes, known.enough
        self._stop.check()
        encoded = self._teacher.preparation.encode([prompt.example for prompt in pending.values()])
        readable, ended = [], False
        for index, key in enumerate(pending):
            if problem := encoded.problems.get(index):
                outcomes[key] = Failed(f"the teacher cannot read the prompt: {problem}")
                ended |= enough(key)
            else:
                readable.append(key)
        if ended or not readable:
            return
        rows = self._form.prompts.of_table(pa.table(dict(encoded.columns)))
        with self._memory():
            rows.check(self._model)
        generator = Generator(
            self._teacher.settings(self._report),
            self._teacher.generation,
            self._form.decode(self._teacher.tokenizer),
            self._hardware,
        )
        done, finished = len(outcomes), False
        for limit, batches in generator.batches(rows, LIMITS[self._hardware.device.type]):

            def work(batch: Ints, limit: int = limit) -> None:
                nonlocal done, finished
                if finished:
                    return
                self._stop.check()
                started = time.monotonic()
                answers = generator.generated(self._model, rows, batch, limit, lambda _: self._on_progress(done))
                seconds = (time.monotonic() - started) / len(batch)
                for index, answer in zip(batch.tolist(), answers, strict=True):
                    found = Answer(
                        content=answer.text,
                        finish_reason="stop" if answer.ended else "length",
                        prompt_tokens=int(rows.prompt_lengths[index]),
                        completion_tokens=answer.tokens,
                        seconds=seconds,
                    )
                    key = readable[index]
                    outcomes[key] = found
                    self.usage.add(found, kept=False)
                    self._store.add(key, found)
                    finished |= enough(key)
                done += len(batch)
                self._on_progress(done)

            with self._memory():
                each_batch(batches, work)

    @contextmanager
    def _memory(self) -> Iterator[None]:
        """Say what does not fit into the memory of the device.

        Raises:
            StageFailure: OutOfMemory.
        """
        try:
            yield
        except (torch.OutOfMemoryError, StageFailure) as error:
            if isinstance(error, StageFailure) and error.reason is not Reason.OUT_OF_MEMORY:
                raise
            raise StageFailure(
                Reason.OUT_OF_MEMORY,
                f"{FIELD}: {self._teacher.teacher.identity.uri} and one prompt do not fit into the memory of one GPU: "
                "use a GPU with more memory or a smaller teacher, or serve it and use teacher.endpoint",
            ) from None

    @cached_property
    def _model(self) -> Any:
        settings = self._teacher.settings(self._report)
        model = load_teacher(self._weights(), settings, self._teacher.form, self._hardware.dtype)
        model.config.use_cache = True
        return model.to(self._hardware.device)

    def _key(self, question: Question) -> str:
        """What tells an answer from that of another teacher, to another prompt, or with other settings."""
        identity = self._teacher.teacher.identity
        limited = replace(
            question, parameters={**question.parameters, "max_new_tokens": self._teacher.generation.max_new_tokens}
        )
        return limited.key(identity.uri, identity.revision)
