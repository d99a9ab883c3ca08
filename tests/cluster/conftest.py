"""Fixtures of the cluster tests: one cluster for all, and a separate team for each module."""

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
    """Start the cluster once, in the main process, where its output is visible.

    A running cluster is reused, with the images of this checkout.
    """
    config = session.config
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Same as Ctrl-C.
    use = sharing.Use()
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            use.begin(_prepare)
        except RuntimeError as error:
            pytest.exit(str(error), pytest.ExitCode.TESTS_FAILED)
    config.stash[_USE] = use


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the cluster after all test processes have ended."""
    if use := config.stash.get(_USE, None):
        use.end(the_cluster.down_uninterrupted)


def _prepare() -> bool:
    """Provide a cluster with everything that tests need; return whether it had to be started."""
    from tests.cluster.inputs import upload_inputs  # Only this process needs torch here.

    was_up = the_cluster.is_up()
    with the_cluster.down_on_error():
        if was_up:
            images.push(set(images.images()) - containers.stored())
            the_cluster.install_chart()
        else:
            the_cluster.up()
        upload_inputs()
    return not was_up


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    """Fail the test if no cluster is running."""
    if not the_cluster.is_up():
        pytest.fail("No cluster is running. Call pytest with tests/cluster or a path below it, which starts one.")


@pytest.fixture(scope="session")
def prometheus() -> None:
    """Prometheus, scraping this cluster."""
    services.provide_prometheus()


@pytest.fixture(scope="session")
def turns() -> sharing.Turns:
    return sharing.Turns()


@pytest.fixture(scope="module", autouse=True)
def turn(turns: sharing.Turns) -> Iterator[None]:
    """Modules share the cluster. Some modules in ``serial`` override this to have it alone."""
    with turns.together():
        yield


@pytest.fixture(scope="module")
def make_tenant() -> Iterator[Callable[[], Tenant]]:
    """Create namespaces that are deleted after the module."""
    made: list[Tenant] = []

    def make() -> Tenant:
        # A unique name: a job with the name of an earlier one would resume from its stored checkpoints.
        tenant = Tenant(f"team-{secrets.token_hex(3)}").create()
        made.append(tenant)
        return tenant

    yield make
    for tenant in made:
        tenant.clean_up()


@pytest.fixture(scope="module")
def tenant(make_tenant: Callable[[], Tenant]) -> Tenant:
    return make_tenant()


@pytest.fixture(scope="module")
def undisturbed() -> list[dict[str, Any]]:
    """The loss curve of an undisturbed long job, trained once for each trainer image.

    A session fixture would run before the module waits for its turn, and could be disturbed.
    """
    kept = RUN / f"undisturbed-{images.image('finetune-trainer').rpartition(':')[2]}.json"
    with locked(kept.with_suffix(".lock")):
        if not kept.exists():
            tenant = Tenant(f"undisturbed-{secrets.token_hex(3)}").create()
            tenant.apply("reference", long_job())
            tenant.until_trained("reference")
            kept.write_text(json.dumps(tenant.curve("reference")))
            tenant.clean_up()
    return list(json.loads(kept.read_text()))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneFileAtATime:
    return OneFileAtATime(config, log)
