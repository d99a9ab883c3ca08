"""The host of a worker waits until the host name of worker 0 resolves."""

from __future__ import annotations

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.host import host


def test_a_host_name_that_does_not_resolve_is_reported_and_then_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_RESOLVE_SECONDS", 0.1)
    activities: list[str] = []
    with pytest.raises(StageFailure, match=r"the address of worker 0, w-0\.gang\.invalid, does not resolve") as failure:
        host.wait_until_resolvable("w-0.gang.invalid", activities.append)
    assert failure.value.reason is Reason.UNAVAILABLE
    assert set(activities) == {"waiting for the address of worker 0, w-0.gang.invalid"}
    host.wait_until_resolvable("localhost", pytest.fail)
