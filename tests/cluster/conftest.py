"""One cluster for all tests; each module has a team of its own."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster import cluster as the_cluster
from tests.cluster import containers, images, machine
from tests.cluster.curves import long_job
from tests.cluster.tenant import Tenant, upload_inputs


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "lengthy: takes minutes; `make test-cluster` runs it, `make test` does not")


@pytest.fixture(scope="session", autouse=True)
def cluster() -> Iterator[None]:
    """The cluster that runs, or one for these tests alone."""
    if reason := machine.obstacle():
        pytest.skip(f"The cluster layer did not run. {reason}")
    if the_cluster.is_up():
        images.push(set(images.images()) - containers.stored())
        the_cluster.install_chart()
        upload_inputs()
        yield
        return
    the_cluster.up()
    try:
        upload_inputs()
        yield
    finally:
        the_cluster.down()


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
        tenant.delete()


@pytest.fixture(scope="module")
def tenant(make_tenant: Callable[[], Tenant]) -> Tenant:
    return make_tenant()


@pytest.fixture(scope="session")
def undisturbed() -> Iterator[list[dict[str, Any]]]:
    """The training curve of a long job to which nothing happens."""
    tenant = Tenant(f"undisturbed-{secrets.token_hex(3)}").create()
    tenant.apply("reference", long_job())
    tenant.until_trained("reference")
    yield tenant.curve("reference")
    tenant.delete()
