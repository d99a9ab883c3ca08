"""Each change to a library is still needed by the installed version.

A test that fails after an upgrade asks to check the change: delete it, or enter the new version in its file.
"""

from __future__ import annotations

import importlib
import inspect
from importlib.metadata import PackageNotFoundError, distribution, distributions, version
from pathlib import Path

import pytest
from harness_fixtures import LIBRARY
from packaging.requirements import Requirement
from peft import PeftModelForQuestionAnswering
from transformers import Trainer
from transformers.loss import loss_for_object_detection, loss_utils

from finetune_trainer.patches import bitsandbytes, deepspeed, lm_eval, peft, transformers


def source(file: str) -> str:
    """The text of a file of a library, whose module may be slow to import or stood in for."""
    path = distribution(file.partition("/")[0]).locate_file(file)
    return Path(str(path)).read_text()


@pytest.mark.parametrize("patches", [bitsandbytes, deepspeed, peft, transformers], ids=lambda patches: patches.__name__)
def test_the_changes_were_checked_with_the_installed_version(patches: object) -> None:
    library = patches.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    assert version(library) == patches.VERSION  # type: ignore[attr-defined]


def test_lm_eval_is_the_version_that_was_checked() -> None:
    """`make install` puts it into a directory of its own."""
    (found,) = distributions(name="lm-eval", path=[LIBRARY])
    assert found.version == lm_eval.VERSION
    registry = Path(LIBRARY, "lm_eval/api/registry.py").read_text()
    assert "hf_evaluate.load(name)" in registry
    assert "env = Environment(" in Path(LIBRARY, "lm_eval/utils.py").read_text()


def test_lm_eval_finds_all_that_it_needs() -> None:
    """Also in an image, which has only the extra trainer and this directory."""
    known = {canonical(found.name) for found in distributions(path=[LIBRARY])} | _of_trainer()
    for name in ("lm-eval", "datasets", "evaluate"):
        (found,) = distributions(name=name, path=[LIBRARY])
        needed = [Requirement(text) for text in found.requires or ()]
        assert {canonical(one.name) for one in needed if not one.marker or one.marker.evaluate({"extra": ""})} <= known


def _of_trainer() -> set[str]:
    """The packages that the extra trainer installs."""
    pending, found = ["finetune-operator[trainer]"], set[str]()
    while pending:
        wanted = Requirement(pending.pop())
        try:
            requires = distribution(wanted.name).requires or ()
        except PackageNotFoundError:
            continue  # Of another platform.
        extras = {"", *wanted.extras}
        new = [
            text
            for text in requires
            if not (marker := Requirement(text).marker) or any(marker.evaluate({"extra": extra}) for extra in extras)
        ]
        key = f"{canonical(wanted.name)}{sorted(wanted.extras)}"
        pending += [] if key in found else new
        found |= {key, canonical(wanted.name)}
    return found


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def test_transformers_still_imports_scipy_with_every_model() -> None:
    assert "is_scipy_available()" in inspect.getsource(loss_for_object_detection)
    assert "loss_for_object_detection" in inspect.getsource(loss_utils)


def test_transformers_still_trains_a_step_after_the_last() -> None:
    loop = inspect.getsource(Trainer._inner_training_loop)
    assert "global_step >= " not in loop.partition("_run_epoch")[0], "Trainer checks the number of steps by itself"


def test_deepspeed_still_compiles_muon_on_import() -> None:
    assert "@compiler.compile" in source("deepspeed/runtime/zero/muon/original_muon.py")
    assert "muon" in source("deepspeed/runtime/zero/utils.py")


def test_deepspeed_still_builds_a_kernel_on_the_cpu() -> None:
    assert "__compatible_ops__" in source("deepspeed/comm/torch.py")


def test_peft_still_imports_bitsandbytes_which_imports_the_compiler() -> None:
    assert "bnb" in source("peft/tuners/lora/model.py")
    assert "find_spec" in source("peft/import_utils.py")
    assert "torch.compile" in source("bitsandbytes/backends/default/ops.py")
    for module, names in peft._ANSWERS.items():
        assert all(hasattr(getattr(importlib.import_module(module), name), "cache_clear") for name in names)


def test_bitsandbytes_still_has_a_layout_and_a_kernel_for_avx512() -> None:
    assert "_convert_weight_packed_for_cpu(self.weight.data" in source("bitsandbytes/nn/modules.py")
    assert "A = A.reshape(m, n // 2)" in source("bitsandbytes/backends/cpu/ops.py")


def test_peft_still_drops_token_type_ids_of_question_answering() -> None:
    forward = inspect.getsource(PeftModelForQuestionAnswering.forward)
    alone = forward.partition("if not peft_config.is_prompt_learning:")[2].partition("batch_size =")[0]
    assert "self.base_model(" in alone
    assert "token_type_ids" not in alone
    assert peft.task_type_of("QUESTION_ANS") is None
    assert peft.task_type_of("SEQ_CLS") == "SEQ_CLS"
