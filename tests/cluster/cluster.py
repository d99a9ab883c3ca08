"""A real Kubernetes cluster with two nodes on this machine: ``python -m tests.cluster.cluster build|up|down``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.chart.helm import CHART
from tests.cluster import control, example, images, machine, network, preflight, services
from tests.cluster.daemons import Daemon, end_descendants
from tests.cluster.layout import RUN, SOCKETS
from tests.cluster.machine import run
from tests.cluster.node import NODES
from tests.cluster.sharing import Turns
from tests.cluster.tenant import OUTPUT
from tests.tools import PROGRAMS, go_tool

RELEASE, NAMESPACE = "finetune-operator", "finetune-system"
REGISTRY = Daemon("registry")
_NOT_OF_THE_CLUSTER = {"prometheus", "promtool"}
"""Prometheus is built and started only on demand."""
_PROGRAMS = RUN / "bin"
"""The programs for interactive use, by their usual names."""
_SMALL = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": None}
"""Requests for a machine with two cores. The LimitRange of each namespace sets the memory limit."""


def is_up() -> bool:
    return control.APISERVER.pid is not None and all(node.kubelet.pid is not None for node in NODES)


def up() -> None:
    """Start the cluster and install the chart. ``services.provide_prometheus`` starts Prometheus.

    The remains of an earlier run are removed first.

    Raises:
        RuntimeError: This machine cannot be a node, or a step failed; the message says which.
    """
    _make()
    _step("control plane", control.start)
    _step("nodes", _start_nodes)
    services.start_dns()
    services.start_s3()
    images.start_registry(REGISTRY)
    _step("chart", install_chart)
    _PROGRAMS.mkdir()
    (_PROGRAMS / "kubectl").symlink_to(go_tool("kubectl"))
    (_PROGRAMS / "helm").symlink_to(go_tool("helm"))


def build() -> None:
    """Build the programs and images of a cluster into the cache, unless a cluster is running.

    Raises:
        RuntimeError: See ``up``.
    """
    if is_up():
        return
    _make()
    down()


def _make() -> None:
    """Create the network, and build programs and images. The registry needs the network."""
    down()
    preflight.check()
    _step("packages", machine.install)
    RUN.mkdir(parents=True, exist_ok=True)
    network.make()
    # Building programs uses the cores; building images uses disk and network.
    with ThreadPoolExecutor() as pool:
        made = [pool.submit(_step, "programs", _build_programs), pool.submit(_step, "images", images.provide)]
        try:
            for step in made:
                step.result()
        except BaseException:
            end_descendants()  # Otherwise the other step would run for minutes.
            raise


@contextmanager
def down_on_error() -> Iterator[None]:
    """Remove everything of the cluster if the block fails or is interrupted."""
    try:
        yield
    except BaseException:
        down_uninterrupted()
        raise


def down_uninterrupted() -> None:
    """Remove everything of the cluster, ignoring further Ctrl-C and SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    down()
    end_descendants()


def down() -> None:
    """Remove everything of the cluster from this machine."""
    if not RUN.exists():  # It is removed last.
        return
    for daemon in (services.PROMETHEUS, services.S3, services.DNS, REGISTRY):
        daemon.stop()
    for node in NODES:
        node.remove()
    network.remove()
    for daemon in (control.SCHEDULER, control.CONTROLLERS, control.APISERVER, control.ETCD):
        daemon.kill()  # Their data is discarded, and the API server would take half a minute to stop.
    shutil.rmtree(SOCKETS, ignore_errors=True)
    shutil.rmtree(RUN, ignore_errors=True)


def _build_programs() -> None:
    for name in PROGRAMS:
        if name not in _NOT_OF_THE_CLUSTER:
            go_tool(name)


def _start_nodes() -> None:
    for node in NODES:
        node.start()


def install_chart(*values: str, wait: bool = True) -> None:
    """Install or upgrade the chart with the images of this checkout."""
    settings = [f"--set-json={value}" for value in (*_values(), *values)]
    helm(
        *("upgrade", "--install", RELEASE, CHART, "--namespace", NAMESPACE, "--create-namespace", *settings),
        "--force-conflicts",  # Tests change objects without Helm.
        *(("--wait", "--timeout=180s") if wait else ()),
    )


def helm(*arguments: object) -> str:
    return run(go_tool("helm"), *map(str, arguments), env=_environment())


def kubectl(*arguments: object) -> str:
    return run(go_tool("kubectl"), *map(str, arguments), env=_environment())


def kubectl_process(*arguments: object) -> subprocess.Popen[str]:
    """Start a ``kubectl`` that keeps running, such as a watch. The caller stops it."""
    command = [str(go_tool("kubectl")), *map(str, arguments)]
    return subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE, text=True)


def operators() -> list[str]:
    """The names of the operator's existing pods."""
    return kubectl("get", "pods", "-n", NAMESPACE, "-o", "name").split()


def kill_operators() -> None:
    """Delete the operator's pods without a grace period, when no other test depends on the operator."""
    now = ("--force", "--grace-period=0", "--wait=false", "--ignore-not-found")
    with Turns("operator").alone():
        kubectl("delete", *now, "-n", NAMESPACE, *operators())


def _environment() -> dict[str, str]:
    return os.environ | {"KUBECONFIG": str(control.kubeconfig())}


def _values() -> list[str]:
    """Values of the chart for a machine with two cores."""
    found = []
    for key, name in (("image", "finetune-operator"), ("trainer.image", "finetune-trainer")):
        repository, _, tag = images.image(name).rpartition(":")
        found += [f'{key}.repository="{repository}"', f'{key}.tag="{tag}"']
    for stage in ("prepare", "respond", "train", "evaluate", "publish"):
        found += [
            f"trainer.stages.{stage}.resources={json.dumps(_SMALL)}",
            f'trainer.stages.{stage}.workspace="4Gi"',
            f'trainer.stages.{stage}.sharedMemory="1Gi"',
            # Several pods share the cores, and a second thread does not speed up such small models.
            f"trainer.stages.{stage}.env={json.dumps([{'name': 'OMP_NUM_THREADS', 'value': '1'}])}",
        ]
    programs = {
        "allowed": True,
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "3Gi"}},
    }
    return [*found, f"trainer.codeExecution={json.dumps(programs)}", "progressSeconds=2"]


def _step(what: str, do: Callable[[], None]) -> None:
    started = time.monotonic()
    do()
    print(f"{what}: {time.monotonic() - started:.0f} s", flush=True)  # noqa: T201


_GREETING = """
The cluster is running. Try:

  export KUBECONFIG={kubeconfig}
  export PATH={programs}:$PATH
  kubectl get nodes
  kubectl get pods --all-namespaces
  kubectl apply -f {manifest}
  kubectl get finetunejobs --namespace {team} --watch
  kubectl describe finetunejobs --namespace {team}

The job is the quickstart, with its model and data in object storage. It publishes to {output}.
Object storage: {s3}. A bucket is a folder in {buckets}. The Secret {secret} in {team} has its credentials.
Prometheus: {prometheus}
Remove the cluster with: make cluster-down
"""


def main() -> None:
    do = {"build": build, "up": _up_for_a_person, "down": down}.get(" ".join(sys.argv[1:]))
    if do is None:
        sys.exit("usage: python -m tests.cluster.cluster build|up|down")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Same as Ctrl-C.
    try:
        with down_on_error():
            do()
    except RuntimeError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted. Everything of the cluster was removed from this machine.")


def _up_for_a_person() -> None:
    up()
    _step("Prometheus", services.provide_prometheus)
    print(_greeting(example.provide()))  # noqa: T201


def _greeting(manifest: Path) -> str:
    return _GREETING.format(
        kubeconfig=control.kubeconfig(),
        programs=_PROGRAMS,
        manifest=manifest,
        team=example.TEAM,
        secret=example.SECRET,
        output=services.BUCKETS / OUTPUT,
        buckets=services.BUCKETS,
        s3=services.S3_ENDPOINT,
        prometheus=services.PROMETHEUS_URL,
    )


if __name__ == "__main__":
    main()
