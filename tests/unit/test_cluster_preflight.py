"""What is said of a machine that cannot have a cluster, before anything is built."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import layout, machine, preflight
from tests.cluster.layout import Port

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["tcp", "udp"])
def taken(request: pytest.FixtureRequest) -> Iterator[Port]:
    """A port on which somebody listens at every address; the cluster's own is not there yet."""
    udp = request.param == "udp"
    with socket.socket(type=socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as other:
        other.bind(("0.0.0.0", 0))
        if not udp:
            other.listen()
        yield Port("the example", other.getsockname()[1], layout.MACHINE_ADDRESS, udp)


def test_a_port_in_use_is_named_with_who_needs_it(taken: Port) -> None:
    said = f"Port {taken.number} of 10.44.0.1, which the example of the cluster needs, is in use"
    with pytest.raises(RuntimeError, match=said):
        machine.require_ports([taken])


def test_a_port_of_another_address_is_free(taken: Port) -> None:
    with socket.socket(type=socket.SOCK_DGRAM if taken.udp else socket.SOCK_STREAM) as other:
        other.bind(("127.0.0.1", 0))
        if not taken.udp:
            other.listen()
        machine.require_ports([Port("the example", other.getsockname()[1], "127.0.0.2", taken.udp)])


def test_a_full_disk_is_named_with_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(
        RuntimeError, match=f"GiB are free in {tmp_path}, but the cluster needs 1000000: free some space"
    ):
        machine.require_space(tmp_path / "not" / "yet" / "there", 1_000_000, "the cluster")


def test_the_space_for_images_is_asked_for_where_they_will_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, int, str]] = []
    monkeypatch.setattr(machine, "obstacle", lambda: None)
    monkeypatch.setattr(machine, "require_ports", list)
    monkeypatch.setattr(machine, "require_space", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(preflight, "CACHE", tmp_path)
    preflight.check()
    (tmp_path / "registry").mkdir()
    preflight.check()
    assert [(place, purpose) for place, _, purpose in asked] == [
        (tmp_path, "building the images"),
        (tmp_path, "the cluster"),
    ]
    assert asked[0][1] > asked[1][1]


def test_without_go_it_is_a_sentence_from_python_alone(tmp_path: Path) -> None:
    """No module of anybody else is there yet when `make cluster` asks."""
    command = [sys.executable, "-I", "-S", "-c", _ALONE]
    found = subprocess.run(
        command, env=os.environ | {"PATH": str(tmp_path)}, check=False, capture_output=True, text=True
    )
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith("The cluster needs ")
    assert len(found.stderr.splitlines()) == 1


_ALONE = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT)!r})
runpy.run_module("tests.cluster.preflight", run_name="__main__")
"""
