"""The Dockerfiles, as far as they can be judged without building them."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.chart.helm import ROOT

OPERATOR, TRAINER = ROOT / "operator" / "Dockerfile", ROOT / "trainer_image" / "Dockerfile"
IMAGES = pytest.mark.parametrize("path", [OPERATOR, TRAINER], ids=["operator", "trainer"])


def instructions(path: Path) -> list[tuple[str, str]]:
    """Instructions of the last stage, which is what runs."""
    text = re.sub(r"\\\n\s*", "", path.read_text()).rpartition("\nFROM ")[2]
    lines = [line for line in text.splitlines()[1:] if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


@IMAGES
def test_the_base_image_can_be_another_one(path: Path) -> None:
    text = path.read_text()
    assert re.search(r"^ARG BASE_IMAGE=\S+$", text, flags=re.MULTILINE)
    named = set(re.findall(r"^FROM \S+ AS (\S+)$", text, flags=re.MULTILINE))
    assert {line.split()[1] for line in text.splitlines() if line.startswith("FROM ")} <= {"${BASE_IMAGE}", *named}


def test_our_code_is_a_layer_above_the_dependencies() -> None:
    """A new version of it must not make everybody fetch gigabytes again."""
    assert "\nFROM dependencies\n" in TRAINER.read_text()
    assert [rest.split()[0] for word, rest in instructions(TRAINER) if word == "COPY"] == ["--from=code"]
    assert "RUN" not in dict(instructions(TRAINER))


@IMAGES
def test_it_runs_as_a_number_that_is_not_root(path: Path) -> None:
    # With runAsNonRoot the kubelet refuses a user that it knows only by name.
    assert ("USER", "65532:65532") in instructions(path)


@IMAGES
def test_it_starts_the_program_and_nothing_else(path: Path) -> None:
    module = {OPERATOR: "finetune_operator", TRAINER: "finetune_trainer"}[path]
    assert instructions(path)[-1] == ("ENTRYPOINT", f'["python", "-m", "{module}"]')


@IMAGES
def test_what_it_copies_is_in_the_build_context(path: Path) -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text(), flags=re.MULTILINE)
    for source in " ".join(copied).split():
        assert (ROOT / source).exists()
        assert any(fnmatch(source, pattern) for pattern in sent), f".dockerignore keeps {source} back"


def test_the_operator_has_nothing_of_the_trainer() -> None:
    text = OPERATOR.read_text()
    assert "'.[operator]'" in text
    assert "trainer_image" not in text


def test_what_only_builds_it_is_not_in_it() -> None:
    text = re.sub(r"\\\n\s*", "", TRAINER.read_text())
    for line in text.splitlines():
        assert not line.startswith("RUN") or line.count("venv /opt/uv") == line.count("rm -r /opt/uv")
