"""Checks of the Dockerfiles that need no build."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.chart.helm import ROOT

OPERATOR, TRAINER = ROOT / "operator" / "Dockerfile", ROOT / "trainer_image" / "Dockerfile"
IMAGES = pytest.mark.parametrize("path", [OPERATOR, TRAINER], ids=["operator", "trainer"])


def instructions(path: Path) -> list[tuple[str, str]]:
    """The instructions of the last build stage, which becomes the image."""
    text = re.sub(r"\\\n\s*", "", path.read_text()).rpartition("\nFROM ")[2]
    lines = [line for line in text.splitlines()[1:] if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


@IMAGES
def test_the_base_image_is_a_build_argument(path: Path) -> None:
    text = path.read_text()
    assert re.search(r"^ARG BASE_IMAGE=\S+$", text, flags=re.MULTILINE)
    named = set(re.findall(r"^FROM \S+ AS (\S+)$", text, flags=re.MULTILINE))
    assert {line.split()[1] for line in text.splitlines() if line.startswith("FROM ")} <= {"${BASE_IMAGE}", *named}


def test_the_trainer_code_is_a_layer_above_its_dependencies() -> None:
    """A new version of the code must not change the layer with gigabytes of dependencies."""
    assert "\nFROM dependencies\n" in TRAINER.read_text()
    assert [rest.split()[0] for word, rest in instructions(TRAINER) if word == "COPY"] == ["--from=code"]
    assert "RUN" not in dict(instructions(TRAINER))


@IMAGES
def test_the_image_runs_as_a_numeric_non_root_user(path: Path) -> None:
    # With runAsNonRoot, the kubelet rejects a user that is given by name.
    assert ("USER", "65532:65532") in instructions(path)


@IMAGES
def test_the_entrypoint_is_the_package(path: Path) -> None:
    module = {OPERATOR: "finetune_operator", TRAINER: "finetune_trainer"}[path]
    assert instructions(path)[-1] == ("ENTRYPOINT", f'["python", "-m", "{module}"]')


@IMAGES
def test_dockerignore_includes_every_file_that_the_image_copies(path: Path) -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text(), flags=re.MULTILINE)
    for source in " ".join(copied).split():
        assert (ROOT / source).exists()
        assert any(fnmatch(source, pattern) or source.startswith(f"{pattern}/") for pattern in sent), (
            f".dockerignore excludes {source}"
        )


def test_the_operator_image_contains_no_trainer_code() -> None:
    text = OPERATOR.read_text()
    assert "'.[operator]'" in text
    assert "trainer_image" not in text


def test_the_trainer_image_contains_no_build_tools() -> None:
    text = re.sub(r"\\\n\s*", "", TRAINER.read_text())
    for line in text.splitlines():
        assert not line.startswith("RUN") or line.count("venv /opt/uv") == line.count("rm -r /opt/uv")
