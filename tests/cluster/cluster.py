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
"""Prometheus is started for those who ask for it."""
_PROGRAMS = RUN / "bin"
"""What a person needs, by its usual name."""
_SMALL = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": None}
"""For two cores; how much memory a pod may use at most, each namespace says itself."""


def is_up() -> bool:
    return control.APISERVER.pid is not None and all(node.kubelet.pid is not None for node in NODES)


def up() -> None:
    """Bring the cluster up, with the chart installed; Prometheus, ``services.provide_prometheus`` starts.

    What a run before this one has left is taken away first.

    Raises:
        RuntimeError: This machine cannot be a node, or something failed; the message says what.
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
    """Have in the cache what a cluster is made of, unless one is up.

    Raises:
        RuntimeError: As of ``up``.
    """
    if is_up():
        return
    _make()
    down()


def _make() -> None:
    """Have the programs and the images, and the network, over which a registry hands these to the nodes."""
    down()
    preflight.check()
    _step("packages", machine.install)
    RUN.mkdir(parents=True, exist_ok=True)
    network.make()
    # The one is work for the cores, the other for the disk and the network.
    with ThreadPoolExecutor() as pool:
        made = [pool.submit(_step, "programs", _build_programs), pool.submit(_step, "images", images.provide)]
        try:
            for step in made:
                step.result()
        except BaseException:
            end_descendants()  # Else the other would go on for minutes.
            raise


@contextmanager
def or_down() -> Iterator[None]:
    """Leave nothing on this machine of a cluster that is being made, when that fails or is broken off."""
    try:
        yield
    except BaseException:
        down_undisturbed()
        raise


def down_undisturbed() -> None:
    """Take everything away; whoever presses Ctrl-C again need not wait less."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    down()
    end_descendants()


def down() -> None:
    """Take everything away that a cluster has on this machine."""
    if not RUN.exists():  # It goes last.
        return
    for daemon in (services.PROMETHEUS, services.S3, services.DNS, REGISTRY):
        daemon.stop()
    for node in NODES:
        node.remove()
    network.remove()
    for daemon in (control.SCHEDULER, control.CONTROLLERS, control.APISERVER, control.ETCD):
        daemon.kill()  # Nothing of theirs is kept, and the API server would take half a minute to end.
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
    """Install the chart, or upgrade it, with the images of this checkout."""
    settings = [f"--set-json={value}" for value in (*_values(), *values)]
    helm(
        *("upgrade", "--install", RELEASE, CHART, "--namespace", NAMESPACE, "--create-namespace", *settings),
        "--force-conflicts",  # Tests change things behind Helm's back.
        *(("--wait", "--timeout=180s") if wait else ()),
    )


def helm(*arguments: object) -> str:
    return run(go_tool("helm"), *map(str, arguments), env=_environment())


def kubectl(*arguments: object) -> str:
    return run(go_tool("kubectl"), *map(str, arguments), env=_environment())


def kubectl_process(*arguments: object) -> subprocess.Popen[str]:
    """A ``kubectl`` that goes on, such as one that watches; who starts it ends it."""
    command = [str(go_tool("kubectl")), *map(str, arguments)]
    return subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE, text=True)


def operators() -> list[str]:
    """The operator's pods that are there, by name."""
    return kubectl("get", "pods", "-n", NAMESPACE, "-o", "name").split()


def kill_operators() -> None:
    """Delete the operator's pods without any time to end, when nobody needs it to be there."""
    now = ("--force", "--grace-period=0", "--wait=false", "--ignore-not-found")
    with Turns("operator").alone():
        kubectl("delete", *now, "-n", NAMESPACE, *operators())


def _environment() -> dict[str, str]:
    return os.environ | {"KUBECONFIG": str(control.kubeconfig())}


def _values() -> list[str]:
    """The chart's values for a machine of two cores."""
    found = []
    for key, name in (("image", "finetune-operator"), ("trainer.image", "finetune-trainer")):
        repository, _, tag = images.image(name).rpartition(":")
        found += [f'{key}.repository="{repository}"', f'{key}.tag="{tag}"']
    for stage in ("prepare", "train", "evaluate", "publish"):
        found += [
            f"trainer.stages.{stage}.resources={json.dumps(_SMALL)}",
            f'trainer.stages.{stage}.workspace="4Gi"',
            f'trainer.stages.{stage}.sharedMemory="1Gi"',
            # Several pods share the cores, and such small models gain nothing by a second thread.
            f"trainer.stages.{stage}.env={json.dumps([{'name': 'OMP_NUM_THREADS', 'value': '1'}])}",
        ]
    return [*found, "progressSeconds=2"]


def _step(what: str, do: Callable[[], None]) -> None:
    started = time.monotonic()
    do()
    print(f"{what}: {time.monotonic() - started:.0f} s", flush=True)  # noqa: T201


_GREETING = """
The cluster is up. Try:

  export KUBECONFIG={kubeconfig}
  export PATH={programs}:$PATH
  kubectl get nodes
  kubectl get pods --all-namespaces
  kubectl apply -f {manifest}
  kubectl get finetunejobs --namespace {team} --watch
  kubectl describe finetunejobs --namespace {team}

The job is the quickstart, with its model and data in object storage; what is published lies in {output}.
Object storage: {s3}, a bucket is a folder in {buckets}; the Secret {secret} in {team} has its credentials.
Prometheus: {prometheus}
Take it away with: make cluster-down
"""


def main() -> None:
    do = {"build": build, "up": _up_for_a_person, "down": down}.get(" ".join(sys.argv[1:]))
    if do is None:
        sys.exit("usage: python -m tests.cluster.cluster build|up|down")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Heard as Ctrl-C is.
    try:
        with or_down():
            do()
    except RuntimeError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Broken off; nothing of the cluster is left on this machine.")


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
