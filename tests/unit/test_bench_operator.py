"""The parts of ``bench.operator`` that calculate."""

from __future__ import annotations

import json

import pytest

from bench.operator import report
from bench.operator.series import OperatorMetrics, api_server_requests

OPERATOR = """\
# HELP finetune_api_requests_total Requests to the Kubernetes API; code is 0 where no answer came.
finetune_api_requests_total{code="200",method="PATCH",resource="jobs"} 3.0
finetune_api_requests_total{code="201",method="PATCH",resource="jobs"} 500.0
finetune_api_requests_total{code="409",method="PATCH",resource="finetunejobs"} 2.0
finetune_api_requests_total{code="200",method="GET",resource="events"} 7.0
finetune_jobs{phase="Pending"} 1.0
finetune_jobs{phase="Preparing"} 499.0
finetune_queue_depth 4.0
"""
SERVER = """\
apiserver_request_total{code="200",dry_run="",group="",resource="",scope="",subresource="/readyz",verb="GET"} 9
apiserver_request_total{code="200",group="finetune.dev",resource="finetunejobs",subresource="status",verb="APPLY"} 5
apiserver_request_total{code="409",group="finetune.dev",resource="finetunejobs",subresource="status",verb="APPLY"} 1
apiserver_request_total{code="200",group="",resource="events",subresource="",verb="LIST"} 1.497e+03
apiserver_request_total_of_something_else{code="200",resource="events",subresource="",verb="LIST"} 1
"""


def test_what_an_operator_says():
    asked = OperatorMetrics(OPERATOR)

    assert asked.requests() == {"PATCH jobs": 503, "PATCH finetunejobs 409": 2, "GET events": 7}
    assert (asked.writes, asked.queued, asked.jobs, asked.waiting) == (505, 4, 500, 1)


def test_what_an_api_server_was_asked_for():
    assert api_server_requests(SERVER) == {"APPLY finetunejobs/status": 6, "LIST events": 1497}


def test_shares_are_of_the_same_round():
    assert report.shares([40, 60, 30], [20, 60, 60]) == [2, 1, 0.5]
    with pytest.raises(ValueError, match="shorter"):
        report.shares([40, 60], [20])


def test_medians_of_entries_that_not_every_round_has():
    rounds = [{"GET pods": 1.0, "PATCH jobs": 1.0}, {"PATCH jobs": 3.0}, {"PATCH jobs": 2.0}]

    assert report.medians(rounds) == {"PATCH jobs": 2.0}


def test_a_figure_has_the_median_and_its_spread(capsys: pytest.CaptureFixture[str]):
    report.figures("burst_share_of_floor", [1.5, 1.1, 1.71234567], "1", jobs=500)

    assert json.loads(capsys.readouterr().out) == {
        "name": "burst_share_of_floor",
        "value": 1.5,
        "unit": "1",
        "min": 1.1,
        "max": 1.7123,
        "rounds": 3,
        "jobs": 500,
    }
