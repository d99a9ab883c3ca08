"""The benchmark of the switches runs, and they change no loss; on the CPU only some of them have an effect."""

from __future__ import annotations

import torch

from bench.switches import SWITCHES, TINY, TOGETHER, Figure, measure, table


def test_every_switch_has_a_row_and_the_same_loss() -> None:
    shown: list[Figure] = []
    figures = measure(torch.device("cpu"), TINY, 60, shown.append)
    assert shown == figures
    assert [figure.switches for figure in figures] == [
        "none",
        *SWITCHES,
        *(" + ".join(names) for names in TOGETHER),
    ]
    measured = {figure.switches: figure for figure in figures if figure.tokens_per_second}
    assert {"none", "fused AdamW", "recomputed activations"} < measured.keys()
    assert all(abs(figure.loss - figures[0].loss) < 1e-3 for figure in measured.values())
    assert all(figure.note for figure in figures if not figure.tokens_per_second)
    assert len(table(figures).splitlines()) == 2 + len(figures)


def test_nothing_begins_after_the_time() -> None:
    assert {figure.note for figure in measure(torch.device("cpu"), TINY, -1, lambda _: None)} == {"left out: no time"}
