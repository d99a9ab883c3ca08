"""Loss curves of jobs that were disturbed, beside that of one that was not."""

from __future__ import annotations

from typing import Any

from tests.cluster.tenant import Tenant, classification

STEPS, EVERY = 150, 20
SAME = 1e-3
"""How far the losses of two runs with one seed may be apart; a step changes them by more.

Another world, or another ZeRO stage, adds the same numbers in another order. At five times the learning rate below,
what that changes in the last digit grew to 0.1 within 200 steps.
"""


def long_job(**sections: Any) -> dict[str, Any]:
    """A training that lasts long enough to be disturbed: some seven seconds where nothing else happens."""
    training = {
        "maxSteps": STEPS,
        "learningRate": 1e-3,
        "checkpoint": {"everySteps": EVERY},
        **sections.pop("training", {}),
    }
    return classification(training=training, **sections)


def assert_same(tenant: Tenant, name: str, expected: list[dict[str, Any]]) -> None:
    """Check that a job has every step once, with the losses of ``expected``."""
    curve = tenant.curve(name)
    assert [point["step"] for point in curve] == [point["step"] for point in expected]
    apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(curve, expected, strict=True))
    assert apart < SAME, f"{name}: losses are up to {apart:.2g} from those of the undisturbed run"
