"""Whether a quota can ever allow the pods of a run, from the message of the API server."""

from __future__ import annotations

import pytest

from finetune_operator.observation.quota import never_fits

MESSAGE = 'pods "a-1" is forbidden: exceeded quota: team, requested: {}, used: {}, limited: {}'


@pytest.mark.parametrize(
    ("requested", "used", "limit", "workers"),
    [
        ("pods=1", "pods=2", "pods=2", 2),
        ("limits.memory=16Gi", "limits.memory=20Gi", "limits.memory=32Gi", 2),
        ("requests.cpu=500m", "requests.cpu=1", "requests.cpu=1", 2),
        ("requests.storage=1k", "requests.storage=1000", "requests.storage=2000", 2),
        ("requests.cpu=odd", "requests.cpu=1", "requests.cpu=1", 2),
    ],
)
def test_pods_that_fit_an_unused_quota_can_wait(requested: str, used: str, limit: str, workers: int) -> None:
    assert never_fits(MESSAGE.format(requested, used, limit), workers) is None


def test_a_pod_that_exceeds_the_quota_never_fits() -> None:
    requested, used, limit = (f"limits.memory={size},requests.cpu=4" for size in ("64Gi", "0", "32Gi"))
    assert never_fits(MESSAGE.format(requested, used, limit), 1) == (
        "It can never fit: the pod requests limits.memory=64Gi, and quota team allows 32Gi in all. Request less, or "
        "have the quota raised."
    )


def test_a_gang_that_exceeds_the_quota_never_fits() -> None:
    sentence = never_fits(MESSAGE.format("pods=1", "pods=2", "pods=2"), 3)
    assert sentence is not None
    assert "each of the 3 workers requests pods=1, and quota team allows 2 in all" in sentence


def test_other_refusals_have_nothing_to_do_with_a_quota() -> None:
    assert never_fits("must specify limits.cpu", 1) is None
