"""Changes to DeepSpeed."""

from __future__ import annotations

from deepspeed.runtime import compiler

VERSION = "0.19.8"
"""The version that the changes were checked with."""


def import_without_compiler() -> None:
    """Import the Muon optimizer of DeepSpeed without ``torch.compile``, before DeepSpeed imports it.

    ZeRO imports Muon to check the type of every optimizer. Muon decorates functions with ``torch.compile``, which
    imports TorchInductor: a third of the time before the first step. This product does not use Muon. Source:
    ``is_zero_supported_optimizer`` in deepspeed/runtime/zero/utils.py.
    """
    original = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator  # DeepSpeed's own fallback for torch without a compiler.
    try:
        from deepspeed.runtime.zero.muon import muon_optimizer  # noqa: F401
    finally:
        compiler.compile = original


def without_cpu_kernels() -> None:
    """Keep DeepSpeed from compiling an op where there is no GPU.

    The op is an all-reduce that only inference uses, and compiling it takes a minute and needs a compiler. Source:
    deepspeed/comm/torch.py builds only what is in this table.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}
