"""The estimated memory of a process, compared with the estimators of DeepSpeed and with published figures."""

from __future__ import annotations

import pytest
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

from finetune_api.spec import Precision
from finetune_api.stage import Device, World
from finetune_cli.memory import Sizes, training_bytes
from tests.builders import a_job

BILLION = 10**9


def on_gpus(count: int) -> World:
    return World(workers=1, processes_per_worker=count, device=Device.GPU)


def full(parameters: int, stage: int, gpus: int) -> int:
    """The memory of a full fine-tuning in BF16."""
    spec = a_job(method={"type": "Full"}, distributed={"zero": {"stage": stage}}).spec
    return training_bytes(spec, Sizes(parameters, None, parameters), Precision.BF16, on_gpus(gpus))


@pytest.mark.parametrize("gpus", [1, 2, 8, 64])
@pytest.mark.parametrize("billions", [1, 7, 70])
def test_full_fine_tuning_needs_what_deepspeed_estimates(gpus: int, billions: int) -> None:
    parameters = billions * BILLION
    _, zero2 = estimate_zero2_model_states_mem_needs(parameters, gpus, 1, cpu_offload=False)
    assert full(parameters, 2, gpus) == pytest.approx(zero2, rel=0.001)
    # Without the parameters of the largest layer, which are gathered, and which the estimate of activations has not.
    _, zero3, _ = estimate_zero3_model_states_mem_needs(parameters, 0, gpus, 1, cpu_offload=False)
    assert zero3 <= full(parameters, 3, gpus) <= 1.12 * zero3


@pytest.mark.parametrize(
    ("billions", "adapter", "embedded", "gigabytes"),
    # LLaMA: parameters, those of LoRA with rank 64 on all linear layers, those of both embeddings, and the memory of
    # Guanaco in gigabytes (Dettmers et al. 2023), which has what a process needs besides.
    [(6.74, 0.16, 0.26, 5), (13.0, 0.25, 0.33, 10), (32.5, 0.49, 0.43, 21), (65.2, 0.80, 0.52, 41)],
)
def test_a_rounded_base_model_needs_what_qlora_reports(
    billions: float, adapter: float, embedded: float, gigabytes: float
) -> None:
    spec = a_job(model={"uri": "hf://o/m", "quantization": "NF4"}, distributed={"zero": {"stage": 0}}).spec
    parameters, trained = round(billions * BILLION), round(adapter * BILLION)
    sizes = Sizes(parameters, parameters - round(embedded * BILLION), 0)
    model = training_bytes(spec, sizes, Precision.BF16, on_gpus(1)) + 2 * trained
    assert 0.75 * gigabytes * BILLION < model < gigabytes * BILLION


def test_full_fine_tuning_of_a_large_model_needs_more_than_qlora_says() -> None:
    # "More than 780 GB" for 65 billion parameters (Dettmers et al. 2023, abstract) has no FP32 copy of the weights.
    assert full(65 * BILLION, 0, 1) == 16 * 65 * BILLION
