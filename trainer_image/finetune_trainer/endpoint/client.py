"""Asks an endpoint: several questions at the same time, with waits, retries, a budget, and a store of the answers."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from finetune_api.failures import Reason, StageFailure
from finetune_api.secrets import SecretRole
from finetune_api.spec import EndpointSpec
from finetune_trainer.endpoint.failures import KEY_VARIABLE, Trouble, trouble_of
from finetune_trainer.endpoint.known import Enough, look_up
from finetune_trainer.endpoint.messages import Answer, Failed, Outcome, Question
from finetune_trainer.endpoint.parsing import read_answer
from finetune_trainer.endpoint.stopping import StopRequest
from finetune_trainer.endpoint.store import AnswerStore
from finetune_trainer.endpoint.usage import Budget, Usage

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_TICK_SECONDS = 1.0
"""Between two reports of progress."""
_FEWEST_FAILURES = 10
"""Questions in a row without an answer after which the endpoint counts as down; not fewer than are asked at once."""
_NO_KEY = "none"
"""Sent where there is no key, because many servers need none."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long a client waits."""

    tries: int = 5
    """Of one question."""
    limited_tries: int = 10
    """Of one question that is answered with 429."""
    first_wait: float = 0.5
    """Seconds after the first failure without Retry-After; doubled after each further one."""
    longest_wait: float = 60.0
    """Seconds, of a wait that the endpoint asks for too."""
    connect_timeout: float = 10.0
    answer_timeout: float = 300.0
    """Seconds without any byte of the answer."""
    last_answers: float = 45.0
    """Seconds after a request to stop in which requests under way may be answered; the shortest grace period of a stage
    that is not stuck is a minute."""

    def wait(self, failures: int) -> float:
        """Seconds before the next try: doubled after each failure, with a jitter of a quarter."""
        exponential = self.first_wait * 2.0 ** min(failures - 1, 16)
        return min(exponential, self.longest_wait) * random.uniform(0.75, 1.25)


class Client:
    """A context manager that asks one endpoint.

    Args:
        endpoint: The endpoint of the spec.
        field: Its place in the spec, such as ``distillation.teacher.endpoint``, for messages.
        store: Keeps the answers.
        role: Role of the Secret with its key.
        on_progress: Called about once a second with the number of questions of this call of `ask` that are answered.
        patience: How long to wait.
        stop: Ends the asking on request; None if the caller has nothing to keep.
        environment: Environment variables, with those of the Secrets under their prefixes.
    """

    def __init__(
        self,
        endpoint: EndpointSpec,
        field: str,
        store: AnswerStore,
        *,
        role: SecretRole = SecretRole.ENDPOINT,
        on_progress: Callable[[int], None] = lambda _: None,
        patience: Patience = Patience(),
        stop: StopRequest | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.usage = Usage()
        self._endpoint = endpoint
        self._field = field
        self._store = store
        self._budget = Budget(field, endpoint.max_requests, endpoint.max_tokens)
        self._on_progress = on_progress
        self._patience = patience
        self._stop = stop or StopRequest()
        self._key = environment.get(f"{role.prefix}{KEY_VARIABLE}") or environment.get(KEY_VARIABLE)
        self._runner = asyncio.Runner()
        self._api: AsyncOpenAI | None = None
        self._quiet_until = 0.0
        """Monotonic time before which nothing is asked, because the endpoint limits the rate."""
        self._failures = 0
        """Questions in a row without an answer."""

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._api is not None:
            self._runner.run(self._api.close())
        self._runner.close()

    def ask(self, questions: Sequence[Question], later: int = 0, enough: Enough = lambda *_: False) -> list[Outcome]:
        """The outcome of each question; equal questions are asked once, and those in the store not at all.

        Args:
            questions: The questions.
            later: Questions that will be asked in later calls, for messages.
            enough: When to stop. The outcome of the other questions is `NOT_ASKED`.

        Raises:
            StageFailure: BudgetExceeded; PermissionDenied, NotFound or BadConfiguration when the endpoint cannot be
                used as it is; Unavailable when it cannot be reached, or answers none of many questions; Stopped on
                request; the failures of storage. Requests under way are waited for before, and all answers are kept
                and counted.
        """
        self._stop.check()
        keys = [self._key_of(question) for question in questions]
        known = look_up(self._store, self.usage, keys, questions, enough)
        if known.pending and not known.ended:
            self._check_key()
            asked = _Round(self, known.pending, known.outcomes, later, known.enough)
            self._runner.run(asked.run())
        return known.listed()

    def _check_key(self) -> None:
        """Check that there is a key if the spec names a Secret with one.

        Raises:
            StageFailure: PermissionDenied.
        """
        if (secret := self._endpoint.secret_ref) and not self._key:
            raise StageFailure(
                Reason.PERMISSION_DENIED,
                f"{self._field}.secretRef names the Secret {secret.name}, but {KEY_VARIABLE} is neither in it nor in "
                f"the environment; add {KEY_VARIABLE} to the Secret, or with finetune run, to the environment",
            )

    def _key_of(self, question: Question) -> str:
        return question.key(self._endpoint.url, self._endpoint.model)

    async def _answer(self, question: Question) -> Answer:
        """Send one request.

        Raises:
            Exception: As `trouble_of` explains.
        """
        started = time.monotonic()
        response = await self._opened().chat.completions.with_raw_response.create(
            model=self._endpoint.model,
            messages=list(question.messages),  # type: ignore[arg-type]
            extra_body=dict(question.parameters),
        )
        return read_answer(response.http_response.content, question, time.monotonic() - started)

    def _opened(self) -> AsyncOpenAI:
        if self._api is None:
            import httpx2
            from openai import AsyncOpenAI

            # It logs every request.
            logging.getLogger("httpx2").setLevel(logging.WARNING)
            timeout = httpx2.Timeout(self._patience.answer_timeout, connect=self._patience.connect_timeout)
            try:
                # Its own retries would count as one request, and obey no limit of waits.
                self._api = AsyncOpenAI(
                    base_url=self._endpoint.url, api_key=self._key or _NO_KEY, max_retries=0, timeout=timeout
                )
            except httpx2.InvalidURL as error:
                raise StageFailure(
                    Reason.BAD_CONFIGURATION,
                    f"{self._endpoint.url} is no address of a server; correct the url ({error})",
                ) from None
        return self._api


class _Round:
    """One call of `Client.ask`."""

    def __init__(
        self,
        client: Client,
        questions: Mapping[str, Question],
        outcomes: dict[str, Outcome],
        later: int,
        enough: Callable[[str], bool],
    ) -> None:
        self._client = client
        self._queue = deque(questions.items())
        self._outcomes = outcomes
        self._later = later
        self._enough = enough
        """Whether to end the asking after the outcome of the question with this key."""
        self._open = len(questions)
        self._failed = 0
        """Questions that were given up, which are no progress."""
        self._first: Trouble | None = None
        """The trouble of the first question that was given up."""
        self._fault: Exception | None = None
        """The first one that ends the asking."""
        self._ended = asyncio.Event()
        """Set when nothing more may be asked; requests under way are waited for."""

    async def run(self) -> None:
        client = self._client
        total = self._open
        ticker = asyncio.create_task(self._report(total))
        tasks = [asyncio.create_task(self._work()) for _ in range(min(client._endpoint.max_concurrency, total))]
        loop = asyncio.get_running_loop()
        try:
            with client._stop.notifying(lambda: loop.call_soon_threadsafe(self._end, tasks)):
                await asyncio.wait(tasks)
        finally:
            ticker.cancel()
        client._stop.check()
        if isinstance(self._fault, StageFailure) and self._fault.reason is Reason.BUDGET_EXCEEDED:
            client._budget.check(client.usage, self._open + self._later)  # Fewer questions are open now.
        if self._fault:
            raise self._fault
        if self._first and not client.usage.answers:
            raise self._down(self._first)

    def _end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Ask nothing more, and give the requests under way a time to be answered."""

        def give_up() -> None:
            for task in tasks:
                task.cancel()

        self._ended.set()
        asyncio.get_running_loop().call_later(self._client._patience.last_answers, give_up)

    async def _report(self, total: int) -> None:
        while not self._client._stop.requested:  # The host says then that it is stopping.
            self._client._on_progress(total - self._open - self._failed)
            await asyncio.sleep(_TICK_SECONDS)

    async def _work(self) -> None:
        while self._queue and not self._ended.is_set():
            key, question = self._queue.popleft()
            try:
                outcome = await self._ask(question)
                if outcome is None:
                    return
                self._outcomes[key] = outcome
                self._open -= 1
                if isinstance(outcome, Failed):
                    self._failed += 1
                if isinstance(outcome, Answer):
                    self._client.usage.add(outcome, kept=False)
                    self._client._failures = 0
                    self._client._store.add(key, outcome)
                if self._enough(key):
                    self._ended.set()
            except Exception as fault:
                # Not raised here, because the requests under way are paid for.
                log.info("nothing more is asked, and the requests under way are waited for, because of: %s", fault)
                self._fault = self._fault or fault
                self._ended.set()

    async def _ask(self, question: Question) -> Outcome | None:
        """The outcome of a question; None if the asking has ended before there is one."""
        client, patience = self._client, self._client._patience
        failures = limits = 0
        answers = client.usage.answers
        while True:
            await self._until_allowed()
            if self._ended.is_set():
                return None
            client._budget.check(client.usage, self._open + self._later)
            client.usage.requests += 1
            client.usage.retries += failures + limits > 0
            try:
                return await client._answer(question)
            except Exception as error:
                trouble = trouble_of(error, client._endpoint.url, client._endpoint.model)
            if not trouble.limited:
                failures += 1
            else:
                # While others are answered, the rate is limited and not zero.
                limits = 1 if client.usage.answers > answers else limits + 1
                answers = client.usage.answers
            if not trouble.again or failures >= patience.tries or limits >= patience.limited_tries:
                return self._give_up(trouble)
            await self._pause(trouble, failures + limits)

    async def _pause(self, trouble: Trouble, tried: int) -> None:
        """Wait before the next try.

        Raises:
            StageFailure: Unavailable when the endpoint asks for a longer wait than is allowed.
        """
        patience = self._client._patience
        wait = trouble.wait or patience.wait(tried)
        if trouble.wait and wait > patience.longest_wait:
            problem = f"asks to wait {wait:,.0f} s, longer than {patience.longest_wait:,.0f} s"
            raise self._unavailable(problem, trouble.wait)
        log.info("the endpoint %s; asking again in %.1f s", trouble.problem, wait)
        if trouble.limited:
            self._client._quiet_until = max(self._client._quiet_until, time.monotonic() + wait)
        else:
            await self._sleep(wait)

    async def _until_allowed(self) -> None:
        while (wait := self._client._quiet_until - time.monotonic()) > 0 and not self._ended.is_set():
            await self._sleep(wait)

    async def _sleep(self, seconds: float) -> None:
        """Wait, but not longer than something may be asked."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)

    def _give_up(self, trouble: Trouble) -> Failed:
        """The outcome of a question without an answer.

        Raises:
            StageFailure: The trouble is not that of one question.
        """
        client = self._client
        if trouble.limited or trouble.unreachable:
            raise self._unavailable(trouble.problem, trouble.wait)
        client._failures += 1
        self._first = self._first or trouble
        if client._failures >= max(_FEWEST_FAILURES, client._endpoint.max_concurrency):
            raise self._down(trouble)
        log.warning("no answer: the endpoint %s", trouble.problem)
        return Failed(f"the endpoint {trouble.problem}")

    def _down(self, trouble: Trouble) -> StageFailure:
        """The failure for an endpoint that answers no question."""
        if trouble.reason is Reason.UNAVAILABLE:
            return self._unavailable(trouble.problem, trouble.wait)
        remedy = {
            Reason.PERMISSION_DENIED: f"let the key in {KEY_VARIABLE} use the model",
            Reason.BAD_CONFIGURATION: "correct the url, which usually ends with /v1, or the model, or configure the "
            "server",
        }[trouble.reason]
        return StageFailure(trouble.reason, f"The endpoint {self._client._endpoint.url} {trouble.problem}; {remedy}")

    def _unavailable(self, problem: str, wait: float | None) -> StageFailure:
        """The failure for an endpoint with a ``problem`` that asks to ``wait`` some seconds."""
        return StageFailure(
            Reason.UNAVAILABLE,
            f"The endpoint {self._client._endpoint.url} {problem}; the answers so far are kept, and the next attempt "
            "asks the rest",
            retry_after=wait,
            progressed=self._client.usage.answers > self._client.usage.kept,
        )
