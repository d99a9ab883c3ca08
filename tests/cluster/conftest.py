"""One cluster for all tests; each module has a team of its own."""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from xdist.remote import Producer

from tests.cluster import cluster as the_cluster
from tests.cluster import containers, images, services, sharing
from tests.cluster.curves import long_job
from tests.cluster.layout import RUN
from tests.cluster.scheduling import OneFileAtATime
from tests.cluster.tenant import Tenant
from tests.tools import locked

_USE = pytest.StashKey[sharing.Use]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Bring the cluster up once, before the processes of tests start, and where what that says can be read.

    One that runs is used, with the images of this checkout.
    """
    config = session.config
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Heard as Ctrl-C is.
    use = sharing.Use()
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            use.begin(_prepare)
        except RuntimeError as error:
            pytest.exit(str(error), pytest.ExitCode.TESTS_FAILED)
    config.stash[_USE] = use


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take the cluster down when the processes of tests have ended, however they did."""
    if use := config.stash.get(_USE, None):
        use.end(the_cluster.down_undisturbed)


def _prepare() -> bool:
    """Have a cluster with everything that tests need; returns whether it did not run before."""
    from tests.cluster.inputs import upload_inputs  # Of all processes, only this one needs torch here.

    was_up = the_cluster.is_up()
    with the_cluster.or_down():
        if was_up:
            images.push(set(images.images()) - containers.stored())
            the_cluster.install_chart()
        else:
            the_cluster.up()
        upload_inputs()
    return not was_up


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    """The cluster of this run."""
    if not the_cluster.is_up():
        pytest.fail("No cluster is up: name tests/cluster, or something below it, to pytest, and it makes one.")


@pytest.fixture(scope="session")
def prometheus() -> None:
    """Prometheus, which scrapes this cluster."""
    services.provide_prometheus()


@pytest.fixture(scope="session")
def turns() -> sharing.Turns:
    return sharing.Turns()


@pytest.fixture(scope="module", autouse=True)
def turn(turns: sharing.Turns) -> Iterator[None]:
    """Modules share the cluster, with whatever processes run them; some of those in ``serial`` do not."""
    with turns.together():
        yield


@pytest.fixture(scope="module")
def make_tenant() -> Iterator[Callable[[], Tenant]]:
    """Makes namespaces, which are deleted after the module."""
    made: list[Tenant] = []

    def make() -> Tenant:
        # What a job of an earlier run has stored under the same name would be found and gone on from.
        tenant = Tenant(f"team-{secrets.token_hex(3)}").create()
        made.append(tenant)
        return tenant

    yield make
    for tenant in made:
        tenant.clear_up()


@pytest.fixture(scope="module")
def tenant(make_tenant: Callable[[], Tenant]) -> Tenant:
    return make_tenant()


@pytest.fixture(scope="module")
def undisturbed() -> list[dict[str, Any]]:
    """The training curve of a long job to which nothing happens; trained once for each trainer image.

    One of the session would come before its module has its turn, and be disturbed.
    """
    kept = RUN / f"undisturbed-{images.image('finetune-trainer').rpartition(':')[2]}.json"
    with locked(kept.with_suffix(".lock")):
        if not kept.exists():
            tenant = Tenant(f"undisturbed-{secrets.token_hex(3)}").create()
            tenant.apply("reference", long_job())
            tenant.until_trained("reference")
            kept.write_text(json.dumps(tenant.curve("reference")))
            tenant.clear_up()
    return list(json.loads(kept.read_text()))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneFileAtATime:
    return OneFileAtATime(config, log)
