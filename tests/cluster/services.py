"""Services of the cluster besides Kubernetes: DNS, object storage and Prometheus."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from tests.chart import helm
from tests.cluster import control, machine
from tests.cluster.containers import responds
from tests.cluster.daemons import Daemon
from tests.cluster.layout import MACHINE_ADDRESS, PROMETHEUS_PORT, PROMETHEUS_PORTS, RUN, S3_PORT
from tests.tools import go_tool, locked

DNS, S3, PROMETHEUS = Daemon("coredns"), Daemon("s3"), Daemon("prometheus")
S3_ENDPOINT = f"http://{MACHINE_ADDRESS}:{S3_PORT}"
PROMETHEUS_URL = f"http://{MACHINE_ADDRESS}:{PROMETHEUS_PORT}"
BUCKETS = RUN / "buckets"
"""Each directory in it is a bucket."""
ACCESS_KEY, SECRET_KEY = "test-access", "test-secret-never-shown"
CREDENTIALS = {
    "AWS_ENDPOINT_URL": S3_ENDPOINT,
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_REGION": "us-east-1",
}
"""The environment variables of a storage client, as in a Secret."""
_SCRAPE_SECONDS = 2


def start_dns() -> None:
    """Start a DNS server for Services. It forwards other queries to the resolvers of this machine."""
    corefile = RUN / "config" / "Corefile"
    corefile.write_text(
        f"""cluster.local:53 {{
  bind {MACHINE_ADDRESS}
  kubernetes {{
    kubeconfig {control.kubeconfig()}
    ttl 5
  }}
  cache 5
}}
.:53 {{
  bind {MACHINE_ADDRESS}
  forward . /etc/resolv.conf
}}
"""
    )
    DNS.start([go_tool("coredns"), "-conf", corefile])


def start_s3() -> None:
    """Start an S3 server with a directory as storage."""
    sidecar = RUN / "bucket-metadata"
    for folder in (BUCKETS, sidecar):
        folder.mkdir(parents=True, exist_ok=True)
    S3.start(
        [
            go_tool("versitygw"),
            "--port",
            f"{MACHINE_ADDRESS}:{S3_PORT}",
            "--quiet",
            "posix",
            "--sidecar",
            sidecar,
            BUCKETS,
        ],
        env={"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY},
        ready=s3_ready,
    )


def s3_ready() -> bool:
    return responds(S3_ENDPOINT)


def provide_prometheus() -> None:
    """Run Prometheus with the scrape targets of the chart's PodMonitors, and build it first if needed.

    Raises:
        RuntimeError: Its port is in use, or it did not start; the message says which.
    """
    with locked(RUN / "prometheus.lock"):
        if PROMETHEUS.pid is None:
            machine.require_ports(PROMETHEUS_PORTS)
            _start_prometheus()


def _start_prometheus() -> None:
    config = RUN / "config" / "prometheus.yaml"
    scrapes = [_scrape_config(monitor) for monitor in _monitors()]
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": f"{_SCRAPE_SECONDS}s"}, "scrape_configs": scrapes}))
    PROMETHEUS.start(
        [
            go_tool("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={RUN / 'prometheus'}",
            f"--web.listen-address={MACHINE_ADDRESS}:{PROMETHEUS_PORT}",
            "--log.level=warn",
        ],
        ready=lambda: responds(f"{PROMETHEUS_URL}/-/ready"),
    )


def _monitors() -> list[dict[str, Any]]:
    rendered = helm.rendered("monitoring.podMonitors.enabled=true")
    return [document for document in rendered if document["kind"] == "PodMonitor"]


def _scrape_config(monitor: dict[str, Any]) -> dict[str, Any]:
    """Translate a PodMonitor as the Prometheus Operator does, for the fields that the chart uses."""
    spec, name = monitor["spec"], monitor["metadata"]["name"]
    (endpoint,) = spec["podMetricsEndpoints"]
    sd: dict[str, Any] = {"role": "pod", "kubeconfig_file": str(control.kubeconfig())}
    if "namespaceSelector" not in spec:
        sd["namespaces"] = {"names": [monitor["metadata"]["namespace"]]}
    keep = [
        {"action": "keep", "source_labels": [_label(key)], "regex": value}
        for key, value in spec["selector"].get("matchLabels", {}).items()
    ]
    for wanted in spec["selector"].get("matchExpressions", []):
        assert wanted["operator"] == "Exists", "the chart's PodMonitors use no other operator"
        present = _label(wanted["key"]).replace("pod_label_", "pod_labelpresent_")
        keep.append({"action": "keep", "source_labels": [present], "regex": "true"})
    port = {
        "action": "keep",
        "source_labels": ["__meta_kubernetes_pod_container_port_name"],
        "regex": endpoint["port"],
    }
    over = {"action": "drop", "source_labels": ["__meta_kubernetes_pod_phase"], "regex": "(Failed|Succeeded)"}
    named = [
        {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
        {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
    ]
    if "jobLabel" in spec:
        named.append({"source_labels": [_label(spec["jobLabel"])], "target_label": "job"})
    # The rules of the Prometheus Operator are in camel case.
    own = [json.loads(_snake(json.dumps(rule))) for rule in endpoint.get("relabelings", [])]
    return {
        "job_name": name,
        "metrics_path": endpoint.get("path", "/metrics"),
        "honor_labels": endpoint.get("honorLabels", False),
        "kubernetes_sd_configs": [sd],
        "relabel_configs": [over, *keep, port, *named, *own],
    }


def _snake(text: str) -> str:
    return text.replace("sourceLabels", "source_labels").replace("targetLabel", "target_label")


def _label(name: str) -> str:
    """The name of a pod label in Prometheus."""
    return "__meta_kubernetes_pod_label_" + re.sub("[^a-zA-Z0-9]", "_", name)
