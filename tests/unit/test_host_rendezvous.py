"""A gang whose first worker has no address."""

from __future__ import annotations

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.host import host


def test_an_address_that_does_not_come_is_waited_for_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_RESOLVE_SECONDS", 0.1)
    said: list[str] = []
    with pytest.raises(StageFailure, match=r"the address of worker 0, w-0\.gang\.invalid, does not resolve") as failure:
        host.wait_until_resolvable("w-0.gang.invalid", said.append)
    assert failure.value.reason is Reason.UNAVAILABLE
    assert set(said) == {"waiting for the address of worker 0, w-0.gang.invalid"}
    host.wait_until_resolvable("localhost", pytest.fail)
