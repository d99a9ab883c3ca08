"""What `make demo` says before it builds anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import preflight

ROOT = Path(__file__).parents[2]
VERSION = "finetune-operator needs Python 3.11 or newer; select one with PYTHON=…"


def make(python: str) -> tuple[int, str]:
    """Exit code of `make preflight` and its first line on standard error."""
    done = subprocess.run(
        ["make", "--no-print-directory", "preflight", f"PYTHON={python}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, next(iter(done.stderr.splitlines()), "")


def test_a_machine_that_has_all_is_told_nothing() -> None:
    assert make(sys.executable) == (0, "")


def test_a_python_that_is_not_there() -> None:
    assert make("no-such-python") == (2, f"no-such-python not found: {VERSION}")


def test_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text(f"""#!/bin/sh
exec {sys.executable} -c 'import sys; sys.version_info = (3, 10, 9); exec(sys.argv[1])' "$2"
""")
    old.chmod(0o755)
    assert make(str(old)) == (2, VERSION)


def test_a_disk_that_is_too_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(preflight, "PACKAGES_BYTES", 10**21)
    monkeypatch.setattr(preflight, "ROOT", tmp_path)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "not" / "yet"))
    with pytest.raises(SystemExit) as ended:
        preflight.main()
    sentence = str(ended.value)
    assert sentence.startswith(f"The disk of {tmp_path}/not/yet has ")
    assert " GB free, but 1000000000000 GB are needed; free some space, or " in sentence


def test_what_is_cached_or_installed_needs_no_room_again(tmp_path: Path) -> None:
    root, cache = tmp_path / "checkout", tmp_path / "cache"
    root.mkdir()
    assert preflight.needs(root, cache) == {root: preflight.EXAMPLE_BYTES, cache: preflight.PACKAGES_BYTES}
    (cache / "archive-v0" / "x" / "torch").mkdir(parents=True)
    assert preflight.needs(root, cache) == {root: preflight.EXAMPLE_BYTES, cache: preflight.EXAMPLE_BYTES}
    (root / ".venv").mkdir()
    (root / ".venv" / ".installed").touch()
    assert preflight.needs(root, cache) == {root: preflight.EXAMPLE_BYTES}


def test_the_cache_is_where_uv_has_it() -> None:
    assert preflight.uv_cache({"UV_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert preflight.uv_cache({"XDG_CACHE_HOME": "/b"}) == Path("/b/uv")
    assert preflight.uv_cache({}) == Path.home() / ".cache" / "uv"
