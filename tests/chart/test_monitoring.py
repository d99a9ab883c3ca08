"""PodMonitors, alerts and the dashboard: disabled by default, and based on existing series."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from finetune_api.failures import Fault, Reason
from finetune_api.tables.reasons import REASONS
from finetune_core import names
from finetune_operator.metrics import Metrics
from finetune_trainer.host.monitor import StageMetrics
from tests.chart.helm import CHART, of_kind, the
from tests.tools import go_tool

MONITORS = "monitoring.podMonitors.enabled=true"
RULES = "monitoring.prometheusRule.enabled=true"
DASHBOARDS = "monitoring.dashboards.enabled=true"
LABELS = 'monitoring.labels={"release":"prometheus"}'
ALERTS = [
    rule
    for path in sorted((CHART / "alerts").glob("*.yaml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD = json.loads((CHART / "dashboards" / "finetune.json").read_text())


def series() -> set[str]:
    """The names of all series that the operator and the stages export."""
    operator, stage = Metrics(), StageMetrics()
    operator.register_gauges(lambda: {"Pending": 1}, lambda: 0, lambda: ())
    return {"up", *_names(operator.registry), *_names(stage.registry)}


def _names(registry: CollectorRegistry) -> Iterable[str]:
    for family in registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        yield from (family.name + suffix for suffix in suffixes)


def queries() -> list[str]:
    """All expressions in the dashboard."""
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return panels + [entry["definition"] for entry in DASHBOARD["templating"]["list"] if entry["type"] == "query"]


def used(expression: str) -> set[str]:
    return set(re.findall(r"\bfinetune_\w+", expression)) - {"finetune_job"} | set(re.findall(r"\bup\b", expression))


def test_monitoring_is_disabled_by_default() -> None:
    for kind in ("PodMonitor", "PrometheusRule"):
        assert not of_kind(kind)
    assert set(of_kind("ConfigMap")) == {"finetune-operator"}


def test_prometheus_scrapes_the_operator() -> None:
    monitor = of_kind("PodMonitor", MONITORS, LABELS)["finetune-operator"]
    labels = the("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "http", "path": "/metrics", "honorLabels": True}]
    # The alert FineTuneOperatorDown selects this job.
    assert labels[monitor["spec"]["jobLabel"]] == "finetune-operator"


def test_prometheus_scrapes_worker_0_of_every_stage() -> None:
    spec = of_kind("PodMonitor", MONITORS)["finetune-operator-stages"]["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    assert spec["namespaceSelector"] == {"any": True}
    # Users run these pods, and could otherwise report metrics for other namespaces.
    assert "honorLabels" not in endpoint
    assert spec["selector"]["matchExpressions"] == [{"key": names.STAGE_LABEL, "operator": "Exists"}]
    assert (endpoint["port"], endpoint["path"]) == ("metrics", "/metrics")
    sources = {rule["sourceLabels"][0]: rule for rule in endpoint["relabelings"]}
    index = sources[_meta(names.INDEX_ANNOTATION)]
    assert (index["regex"], index["action"]) == ("0", "keep")
    assert sources[_meta(names.JOB_LABEL)]["targetLabel"] == "finetune_job"
    assert sources[_meta(names.STAGE_LABEL)]["targetLabel"] == "stage"


def test_prometheus_scrapes_only_the_namespaces_of_the_operator() -> None:
    monitor = of_kind("PodMonitor", MONITORS, 'namespaces=["team-a"]')["finetune-operator-stages"]
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["team-a"]}


def test_the_prometheus_rule_contains_every_alert() -> None:
    rules = the("PrometheusRule", MONITORS, RULES, LABELS)
    shipped = [rule for group in rules["spec"]["groups"] for rule in group["rules"]]
    assert shipped == ALERTS
    assert rules["metadata"]["labels"]["release"] == "prometheus"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_has_a_severity_a_summary_and_a_description(alert: dict[str, Any]) -> None:
    assert alert["alert"].startswith("FineTune")
    assert alert["for"]
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert set(alert["annotations"]) == {"summary", "description"}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_uses_existing_series(alert: dict[str, Any]) -> None:
    assert used(alert["expr"])
    assert used(alert["expr"]) <= series()


@pytest.mark.parametrize("stem", ["operator", "training"])
def test_the_alerts_fire_on_simulated_series(stem: str) -> None:
    """promtool checks the rules and evaluates them on simulated series."""
    promtool = go_tool("promtool")
    _run(promtool, "check", "rules", "--lint-fatal", CHART / "alerts" / f"{stem}.yaml")
    _run(promtool, "test", "rules", Path(__file__).parent / "alerts" / f"{stem}.yaml")


def test_no_alert_fires_for_errors_in_users_jobs() -> None:
    (rising,) = (alert for alert in ALERTS if alert["alert"] == "FineTuneStageFailuresRising")
    (pattern,) = re.findall(r'reason=~"([^"]+)"', rising["expr"])
    # A stage that was stopped on request, for example by a node drain, continues on another node.
    wanted = {reason for reason, row in REASONS.items() if row.fault is not Fault.USER} - {Reason.STOPPED}
    assert set(pattern.split("|")) == wanted


def test_the_dashboard_config_map_contains_the_dashboard() -> None:
    shipped = of_kind("ConfigMap", DASHBOARDS)["finetune-operator-finetune"]
    assert shipped["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(shipped["data"]["finetune.json"]) == DASHBOARD


@pytest.mark.parametrize("query", queries())
def test_every_dashboard_query_is_valid_and_uses_existing_series(query: str, tmp_path: Path) -> None:
    assert used(query)
    assert used(query) <= series()
    label_values = re.fullmatch(r"label_values\((.+), \w+\)", query)
    expression = re.sub(r"\$__(rate_interval|range)", "5m", label_values[1] if label_values else query)
    rule = {"groups": [{"name": "query", "rules": [{"record": "query", "expr": expression}]}]}
    path = tmp_path / "query.yaml"
    path.write_text(json.dumps(rule))
    _run(go_tool("promtool"), "check", "rules", path)


def test_the_dashboard_depends_on_no_particular_grafana() -> None:
    datasources = {json.dumps(found) for found in _found(DASHBOARD, "datasource")}
    assert datasources == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}
    variables = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert variables == ["datasource", "namespace", "finetune_job", "pod"]
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)


def test_every_panel_has_a_title_and_a_description() -> None:
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        assert panel["type"] == "row" or panel["description"]


def _found(node: Any, name: str) -> Iterable[Any]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from [value] if key == name else _found(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from _found(value, name)


def _meta(label: str) -> str:
    """The name of a pod label in Prometheus before relabelling."""
    return "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", label)


def _run(*command: str | Path) -> None:
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
