"""The store of answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.failures import StageFailure
from finetune_trainer.endpoint.messages import Answer
from finetune_trainer.endpoint.store import AnswerStore


class TestStore:
    def test_a_failed_upload_ends_the_asking(self, tmp_path: Path) -> None:
        directory = tmp_path / "answers"
        with AnswerStore(directory.as_uri()) as store:
            tmp_path.joinpath("answers").write_text("a file in the way")
            with pytest.raises(StageFailure, match="Cannot write"):
                add_until_it_fails(store)
            directory.unlink()

    def test_the_first_error_counts_if_the_last_answers_cannot_be_stored(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError):
            block_and_end(tmp_path / "answers", ZeroDivisionError())
        with pytest.raises(StageFailure, match="Cannot write"):
            block_and_end(tmp_path / "others", None)

    def test_files_do_not_grow_without_end(self, tmp_path: Path) -> None:
        long = Answer(content="x" * (600 << 10), finish_reason="stop", prompt_tokens=1, completion_tokens=1, seconds=1)
        with AnswerStore(tmp_path.as_uri()) as store:
            for number in range(5):
                store.add(f"key {number}", long)
                store.flush()
        assert len(list(tmp_path.iterdir())) == 3
        with AnswerStore(tmp_path.as_uri()) as store:
            assert all(store.get(f"key {number}") == long for number in range(5))


def add_until_it_fails(store: AnswerStore) -> None:
    given = Answer(content="x", finish_reason="stop", prompt_tokens=1, completion_tokens=1, seconds=1)
    while True:
        store.add("key", given)


def block_and_end(directory: Path, error: Exception | None) -> None:
    """Put a file in the way of a store, and end it, with ``error`` if there is one."""
    given = Answer(content="x", finish_reason="stop", prompt_tokens=1, completion_tokens=1, seconds=1)
    with AnswerStore(directory.as_uri()) as store:
        directory.write_text("a file in the way")
        store.add("key", given)
        if error:
            raise error
