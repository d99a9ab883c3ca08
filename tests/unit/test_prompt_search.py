"""The search for a prompt, apart from the model that answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from jinja2 import Environment

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, MethodType
from finetune_trainer.endpoint.labels import label_of
from finetune_trainer.methods import method_of
from finetune_trainer.search.near import NearRows
from finetune_trainer.search.prompt import Example, Prompt, Rows, read_prompt, write_prompt
from finetune_trainer.search.proposing import read_proposal
from finetune_trainer.search.record import Record, Scored, Trial
from finetune_trainer.search.shots import SETS, Pool, draw_orders, draw_pool, draw_sets
from finetune_trainer.search.space import Combination, Space
from finetune_trainer.search.strategy import Strategy
from finetune_trainer.search.templates import with_prompt

LABELS = ("good", "bad")
LITERAL = "literally {text} and {x} 100%"


def rows(count: int) -> Rows:
    labels = [LABELS[number % 2] for number in range(count)]
    texts = [{"text": f"{'sun' if number % 2 else 'mud'} {number:03d} {number * 7919}"} for number in range(count)]
    return Rows(texts, labels, [f"train.jsonl:{number + 1}" for number in range(count)])


def a_pool(count: int, labels: Sequence[str] = LABELS) -> Pool:
    return draw_pool(rows(count), labels, NearRows([]), wanted=count, seed=3)


def a_space(shots: Sequence[int] = (0, 2, 4), count: int = 40) -> Space:
    return Space.of(("A {text}", "B {text}"), shots, a_pool(count), seed=3)


class TestPrompt:
    def test_braces_in_a_row_stay_as_they_are(self) -> None:
        prompt = Prompt("{text}? Again: {text} {x}", (Example({"text": "{text}"}, "good", "train.jsonl:1"),))
        assert prompt.asked({"text": LITERAL}) == f"{LITERAL}? Again: {LITERAL} {{x}}"
        assert prompt.before[0]["content"] == "{text}? Again: {text} {x}"

    def test_all_texts_of_a_row_are_filled_in_at_once(self) -> None:
        assert Prompt("{question} | {context}").asked({"question": "{context}", "context": "c"}) == "{context} | c"

    def test_a_prompt_is_the_same_after_it_was_stored(self, tmp_path: Path) -> None:
        prompt = Prompt("Is {text} good?", (Example({"text": "sun"}, "good", "train.jsonl:1"),))
        write_prompt(tmp_path, prompt, {"labels": LABELS})
        assert read_prompt(tmp_path) == prompt
        assert prompt.alone == Prompt("Is {text} good?")

    def test_a_template_puts_the_prompt_around_the_message_of_a_user(self) -> None:
        prompt = Prompt('Say "{text}"\nor {text}!', (Example({"text": "süß {{ x }}"}, "good", "1"),))
        template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
        found = (
            Environment()
            .from_string(with_prompt(template, prompt, "text"))
            .render(messages=[{"role": "user", "content": LITERAL}])
        )
        expected = "".join(f"<{one['role']}>{one['content']}" for one in prompt.messages({"text": LITERAL}))
        assert found.strip() == expected


class TestNearRows:
    @pytest.mark.parametrize(
        "text",
        [
            "The pump does not start in winter",
            "the  pump does not START in winter.",
            "The pump doesn't start in winter",
        ],
    )
    def test_a_row_that_is_nearly_held_out_is_found(self, text: str) -> None:
        near = NearRows([{"text": "Another text"}, {"text": "The pump does not start in winter"}])
        assert near({"text": text})

    def test_another_row_is_not(self) -> None:
        assert not NearRows([{"text": "The pump does not start in winter"}])({"text": "The pump leaks oil in summer"})

    def test_a_question_about_the_same_text_is_another_row(self) -> None:
        near = NearRows([{"question": "Who built the mill?", "context": "A long text " * 20}])
        assert not near({"question": "When did it close?", "context": "A long text " * 20})
        assert near({"question": "Who built the mill", "context": "A long text " * 20})


class TestShots:
    def test_near_rows_are_left_out_and_counted(self) -> None:
        all_rows = rows(10)
        pool = draw_pool(all_rows, LABELS, NearRows(all_rows.inputs[:4]), wanted=10, seed=3)
        assert set(pool.order) == set(range(4, 10))
        assert pool.near == 4
        assert pool.looked_at == 10

    @pytest.mark.parametrize("labels", [LABELS, ()])
    def test_the_draw_goes_on_until_the_sets_are_full(self, labels: Sequence[str]) -> None:
        all_rows = rows(256)
        near = NearRows(all_rows.inputs[:200])
        pool = draw_pool(all_rows, labels, near, wanted=32 // max(1, len(labels)), seed=3)
        assert len(pool.order) == 32
        assert min(pool.order) >= 200
        assert pool.near == pool.looked_at - 32
        assert len(draw_sets(pool, 4, seed=3)) == SETS

    def test_a_label_whose_rows_are_near_leaves_its_part_to_the_others(self) -> None:
        all_rows = rows(40)
        pool = draw_pool(all_rows, LABELS, NearRows(all_rows.inputs[::2]), wanted=8, seed=3)
        assert len(pool.order) == 16
        assert (pool.near, pool.looked_at) == (20, 36)

    def test_a_draw_is_bounded(self) -> None:
        many = rows(2100)
        same = Rows([{"text": "The same text"}] * 2100, many.answers, many.sources)
        pool = draw_pool(same, LABELS, NearRows([{"text": "The same text"}]), wanted=4, seed=3)
        assert (pool.near, pool.looked_at, pool.order) == (2000, 2000, ())
        with pytest.raises(StageFailure, match="only 0 of the 2000 training rows that were looked at can be examples"):
            draw_sets(pool, 1, seed=3)

    @pytest.mark.parametrize("size", [2, 4, 6])
    def test_sets_of_a_classifier_are_balanced(self, size: int) -> None:
        found = draw_sets(a_pool(40), size, seed=3)
        assert len(found) == len({frozenset(one) for one in found}) == SETS
        for examples in found:
            assert set(Counter(rows(40).answers[index] for index in examples).values()) == {size // 2}

    def test_a_label_that_is_rare_does_not_make_a_set_smaller(self) -> None:
        few = Rows(rows(9).inputs, ["good"] * 8 + ["bad"], rows(9).sources)
        pool = draw_pool(few, LABELS, NearRows([]), wanted=9, seed=3)
        assert {len(one) for one in draw_sets(pool, 6, seed=3)} == {6}

    def test_sets_of_texts_are_drawn_from_the_pool(self) -> None:
        found = draw_sets(a_pool(12, ()), 3, seed=3)
        assert all(len(set(one)) == 3 for one in found)

    def test_more_examples_than_there_are_is_an_error(self) -> None:
        with pytest.raises(StageFailure, match="asks for 6 examples, but only 4 of the 4 training rows that") as failed:
            draw_sets(a_pool(4), 6, seed=3)
        assert failed.value.reason is Reason.BAD_CONFIGURATION

    def test_orders_are_different_and_the_same_in_each_attempt(self) -> None:
        found = draw_orders((5, 1, 9, 2), seed=3)
        assert found[0] == (5, 1, 9, 2)
        assert len(set(found)) == 4
        assert {frozenset(one) for one in found} == {frozenset((1, 2, 5, 9))}
        assert draw_orders((5, 1, 9, 2), seed=3) == found
        assert draw_orders((5,), seed=3) == [(5,)]


class TestStrategy:
    def test_no_examples_leave_as_many_combinations_as_candidates(self) -> None:
        assert list(a_space([0])) == [Combination(0, 0, 0, 0), Combination(1, 0, 0, 0)]

    def test_every_combination_is_suggested_once(self) -> None:
        space = a_space([0, 1], count=4)
        strategy = Strategy(space, maximize=True, seed=1)
        found = []
        while (combination := strategy.next()) is not None:
            found.append(combination)
            strategy.tell(combination, float(combination.candidate))
        assert sorted(found) == sorted(space)

    def test_it_prefers_what_scores_well(self) -> None:
        space = a_space([0, 2, 4], count=60)
        for maximize, better in ((True, 1), (False, 0)):
            strategy = Strategy(space, maximize=maximize, seed=1)
            found = []
            for _ in range(60):
                combination = strategy.next()
                assert combination is not None
                found.append(combination.candidate)
                strategy.tell(combination, float(combination.candidate))
            assert Counter(found[10:45])[better] > 25

    def test_a_search_that_resumes_suggests_only_what_is_left(self) -> None:
        space = a_space([0, 2])
        done = [Trial(value=0.5, **one._asdict()) for one in list(space)[:10]]
        done[3] = Trial(value=None, **list(space)[3]._asdict())
        strategy = Strategy(space, maximize=True, seed=1, scored=done)
        assert strategy.left == sum(1 for _ in space) - 10
        assert strategy.next() not in list(space)[:10]

    def test_a_search_that_resumes_goes_on_as_without_a_break(self) -> None:
        space = a_space([0, 2, 4])

        def search(strategy: Strategy, done: list[Trial], trials: int) -> list[Trial]:
            found = list(done)
            while len(found) < trials:
                combination = strategy.next()
                assert combination is not None
                value = None if combination.chosen == 3 else combination.candidate + combination.order / 10
                strategy.tell(combination, value)
                found.append(Trial(value=value, **combination._asdict()))
            return found

        whole = search(Strategy(space, maximize=True, seed=1), [], 40)
        assert any(one.value is None for one in whole)
        for broken in (0, 1, 12, 30):
            resumed = Strategy(space, maximize=True, seed=1, scored=whole[:broken])
            assert search(resumed, whole[:broken], 40) == whole
        assert search(Strategy(space, maximize=True, seed=2), [], 40) != whole


class TestRecord:
    def test_of_equal_scores_the_shorter_prompt_is_the_best(self) -> None:
        trials = tuple(
            Trial(value=value, candidate=0, shots=shots, chosen=0, order=0)
            for value, shots in ((None, 0), (0.5, 2), (0.8, 4), (0.8, 2))
        )
        found = Record(metric="accuracy", maximize=True, examples=9, trials=trials).best
        assert found is not None
        assert (found.value, found.shots) == (0.8, 2)
        lowest = Record(metric="perplexity", maximize=False, examples=9, trials=trials).best
        assert lowest is not None
        assert lowest.value == 0.5
        assert Record(metric="accuracy", maximize=True, examples=9).best is None

    def test_unusable_answers_are_counted_by_their_reason(self) -> None:
        place = {"candidate": 0, "shots": 0, "chosen": 0, "order": 0}
        trials = (Trial(value=0.1, unusable={"cut": 2, "empty": 1}, **place), Trial(value=None, **place))
        plain = Scored(value=0.0, unusable={"empty": 4})
        record = Record(metric="accuracy", maximize=True, examples=9, plain=plain, trials=trials)
        assert record.unusable == {"cut": 2, "empty": 5}
        assert record.answers == 18  # A prompt that does not fit has none.


@pytest.mark.parametrize(
    ("answer", "index"),
    [(" Good.\n", 0), ("bad", 1), ("BAD", 1), ("b.", 2), ("B.", 2), ("Maybe", None), ("not good", None), ("", None)],
)
def test_a_label_is_the_whole_answer(answer: str, index: int | None) -> None:
    assert label_of(answer, ["good", "bad", "b."]) == index


def test_training_settings_that_have_no_effect_are_named() -> None:
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "hf://owner/name"},
            "task": {"type": "TextClassification"},
            "dataset": {"train": {"uri": "s3://bucket/train.jsonl"}},
            "method": {"type": "PromptSearch", "promptSearch": {"candidates": ["{text}"], "shots": [8]}},
            "training": {"maxSteps": 20, "seed": 3, "maxSequenceLength": 64},
            "output": {"uri": "s3://adapters"},
        },
        strict=False,
    )
    method = method_of(MethodType.PROMPT_SEARCH)
    assert method.check_data(spec, 20) == ("training.maxSteps has no effect: method PromptSearch trains nothing",)
    with pytest.raises(StageFailure, match="asks for 8 examples, but the training split has only 7"):
        method.check_data(spec, 7)


class TestProposals:
    @pytest.mark.parametrize(
        ("answer", "places", "expected"),
        [
            ("Is it good?", ("text",), "Is it good?\n\n{text}"),
            ('"Judge {text} now"\n', ("text",), "Judge {text} now"),
            ("```\nJudge {text}\n```", ("text",), "Judge {text}"),
            ("<think>Hm, {other}?</think>\nJudge {text}", ("text",), "Judge {text}"),
            ("<think>It never ends", ("text",), None),
            ("Judge {text} of {label}", ("text",), None),
            ("Answer {question}", ("question", "context"), None),
            ("Answer it", ("question", "context"), "Answer it\n\nQuestion: {question}\n\nContext: {context}"),
            ("  ", ("text",), None),
            ("x" * 5000, ("text",), None),
        ],
    )
    def test_are_checked_like_candidates(self, answer: str, places: tuple[str, ...], expected: str | None) -> None:
        assert read_proposal(answer, places) == expected


def test_the_draw_of_examples_says_that_it_is_alive() -> None:
    looked: list[int] = []
    pool = draw_pool(rows(20), LABELS, NearRows([]), wanted=5, seed=3, on_rows=looked.append)
    assert looked == list(range(1, pool.looked_at + 1))
