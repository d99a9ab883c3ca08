"""The pages in docs/ agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from finetune_api.docs import main, reference
from finetune_api.failures import ExitCode, Reason
from finetune_api.job import ConditionType, Phase
from finetune_cli.manifest import parse
from finetune_cli.result import INTERRUPTED, REJECTED
from finetune_core.policies.restart import decide

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def failure_rows() -> dict[str, tuple[str, str]]:
    """Fault and retry by reason, from docs/status.md."""
    section = (DOCS / "status.md").read_text().partition("## Failure reasons")[2]
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (\w+) \| ([^|]+) \|$", section, flags=re.MULTILINE)
    return {reason: (fault, retried) for reason, fault, retried in rows}


class TestStatusPage:
    def test_lists_every_reason(self) -> None:
        assert set(failure_rows()) == {str(reason) for reason in Reason}

    @pytest.mark.parametrize("reason", Reason)
    def test_lists_fault_and_retry_of_each_reason(self, reason: Reason) -> None:
        follows = decide(reason, disrupted=False, restarts=0, max_restarts=3)
        counted = "yes, counted" if follows.counted else "yes, not counted"
        assert failure_rows()[reason] == (str(reason.row.fault), counted if follows.retried else "no")

    @pytest.mark.parametrize("word", [*Phase, *ConditionType])
    def test_lists_every_phase_and_condition(self, word: str) -> None:
        assert f"`{word}`" in (DOCS / "status.md").read_text()


def exit_codes() -> dict[int, set[str]]:
    """The reasons of each exit code, from README.md."""
    section = (ROOT / "README.md").read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]*)\|$", section, flags=re.MULTILINE)
    return {int(code): set(re.findall(r"`(\w+)`", reasons)) for code, reasons in rows}


class TestExitCodes:
    def test_lists_every_code_once(self) -> None:
        wrong_options = 2
        assert sorted(exit_codes()) == sorted({*ExitCode, REJECTED, wrong_options, INTERRUPTED})

    @pytest.mark.parametrize("reason", Reason)
    def test_lists_each_reason_with_the_code_of_a_job_that_ended_so(self, reason: Reason) -> None:
        own = {Reason.GATE_FAILED: REJECTED, Reason.STOPPED: INTERRUPTED}
        listed = [code for code, reasons in exit_codes().items() if reason in reasons]
        assert listed == [own.get(reason, reason.exit_code)]


class TestApiReference:
    def test_contains_type_bounds_and_default(self) -> None:
        assert "| `rank` | integer, ≥ 1, ≤ 1024 | `16` | Rank of the update. |" in reference()
        assert "| `fraction` | number, > 0, ≤ 0.5 |" in reference()
        assert "- set epochs or maxSteps, not both" in reference()

    def test_links_point_to_existing_sections(self) -> None:
        text = reference()
        headings = re.findall(r"^##+ (.+)$", text, flags=re.MULTILINE)
        anchors = {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert set(re.findall(r"\(#([^)]+)\)", text)) <= anchors

    def test_check_fails_if_the_page_is_outdated(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        page = tmp_path / "api.md"
        page.write_text(reference())
        assert main(["--check", str(page)]) == 0
        page.write_text(reference() + "more")
        assert main(["--check", str(page)]) == 1
        assert "is out of date; run python -m finetune_api.docs > " in capsys.readouterr().err


@pytest.mark.parametrize("page", [*sorted(DOCS.glob("*.md")), ROOT / "README.md"], ids=lambda page: page.name)
def test_links_between_pages_point_to_existing_targets(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_manifest_of_the_first_job_page_is_valid() -> None:
    manifest = re.search(r"```yaml\n(# intents.yaml\n.+?)```", (DOCS / "first-job.md").read_text(), flags=re.DOTALL)
    assert manifest
    assert parse(manifest[1], "intents.yaml", DOCS).metadata.namespace == "team-a"


def test_values_on_the_install_page_exist_in_the_chart() -> None:
    page = re.search(r"```yaml\n(# values.yaml\n.+?)```", (DOCS / "install.md").read_text(), flags=re.DOTALL)
    assert page
    known = yaml.safe_load((ROOT / "charts" / "finetune-operator" / "values.yaml").read_text())
    given = yaml.safe_load(page[1])
    assert set(given) <= set(known)
    assert set(given["trainer"]) <= set(known["trainer"])
    assert set(given["trainer"]["stages"]) <= set(known["trainer"]["stages"])
