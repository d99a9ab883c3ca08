"""The failure message after an out-of-memory kill, for cgroup v1 and v2."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from finetune_trainer.host.memory import free_bytes, out_of_memory_sentence

V2 = {"memory.events": "low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\n", "memory.max": "2147483648\n"}
V1 = {
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    "memory/memory.limit_in_bytes": "2147483648\n",
    "memory/memory.max_usage_in_bytes": "2040109465\n",
}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize("files", [V2 | {"memory.peak": "2040109465\n"}, V1], ids=["v2", "v1"])
def test_message_contains_limit_and_peak(tmp_path: Path, files: dict[str, str]) -> None:
    assert out_of_memory_sentence(write(tmp_path, files)) == (
        "the memory limit of the pod is 2.0 GiB, its peak use 1.9 GiB; raise the limit, or lower "
        "training.maxBatchSizePerDevice or training.maxSequenceLength"
    )


def test_message_omits_the_peak_on_kernels_without_it(tmp_path: Path) -> None:
    sentence = out_of_memory_sentence(write(tmp_path, V2))
    assert sentence is not None
    assert sentence.startswith("the memory limit of the pod is 2.0 GiB; raise")


@pytest.mark.parametrize(
    "files",
    [
        {},
        V2 | {"memory.events": "oom_kill 0\n"},
        V2 | {"memory.max": "max\n"},
        V1 | {"memory/memory.limit_in_bytes": "9223372036854771712\n"},
        V1 | {"memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n"},
    ],
    ids=["no cgroup", "no process killed", "no limit v2", "no limit v1", "old kernel"],
)
def test_there_is_no_message_without_an_out_of_memory_kill(tmp_path: Path, files: dict[str, str]) -> None:
    assert out_of_memory_sentence(write(tmp_path, files)) is None


LIMITED_V2 = V2 | {"memory.current": "1000000000\n", "memory.stat": "anon 1\ninactive_file 400000000\n"}
LIMITED_V1 = V1 | {"memory/memory.usage_in_bytes": "1000000000\n", "memory/memory.stat": "inactive_file 400000000\n"}


@pytest.mark.parametrize("files", [LIMITED_V2, LIMITED_V1], ids=["v2", "v1"])
def test_free_memory_includes_the_cache_of_files(tmp_path: Path, files: dict[str, str]) -> None:
    assert free_bytes(write(tmp_path, files)) == 2147483648 - 1_000_000_000 + 400_000_000


@pytest.mark.parametrize("files", [{}, LIMITED_V2 | {"memory.max": "max\n"}], ids=["no cgroup", "no limit"])
def test_free_memory_without_a_limit(tmp_path: Path, files: dict[str, str]) -> None:
    assert free_bytes(write(tmp_path, files)) == sys.maxsize
