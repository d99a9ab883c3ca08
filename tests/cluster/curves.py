"""Compare the loss curves of disturbed jobs with that of an undisturbed one."""

from __future__ import annotations

from typing import Any

from tests.cluster.tenant import Tenant, classification

STEPS, EVERY = 150, 20
TOLERANCE = 1e-3
"""The tolerated difference between the losses of two runs with the same seed. A missing step changes them by more.

A different world size or ZeRO stage sums the same numbers in a different order. At five times the learning rate below,
the rounding differences grew to 0.1 within 200 steps.
"""


def long_job(**sections: Any) -> dict[str, Any]:
    """A job that trains long enough to be disturbed: about seven seconds on an idle machine."""
    training = {
        "maxSteps": STEPS,
        "learningRate": 1e-3,
        "checkpoint": {"everySteps": EVERY},
        **sections.pop("training", {}),
    }
    return classification(training=training, **sections)


def assert_same_curve(tenant: Tenant, name: str, expected: list[dict[str, Any]]) -> None:
    """Check that the job trained every step once, with the losses of ``expected``."""
    curve = tenant.curve(name)
    assert [point["step"] for point in curve] == [point["step"] for point in expected]
    apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(curve, expected, strict=True))
    assert apart < TOLERANCE, f"{name}: losses differ by up to {apart:.2g} from those of the undisturbed run"
