"""Changes to DeepSpeed."""

from __future__ import annotations

from deepspeed.runtime import compiler

VERSION = "0.19.8"
"""The version that the changes were checked with."""


def import_without_compiler() -> None:
    """Import DeepSpeed's Muon before DeepSpeed does, with its kernels left as they are written.

    ZeRO asks of every optimizer whether it is Muon, and importing Muon decorates functions with ``torch.compile``. That
    brings in all of TorchInductor: a third of what a worker does before its first step. Source:
    ``is_zero_supported_optimizer`` in deepspeed/runtime/zero/utils.py.
    """
    compiled = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator  # What DeepSpeed itself takes where torch has no compiler.
    try:
        from deepspeed.runtime.zero.muon import muon_optimizer  # noqa: F401
    finally:
        compiler.compile = compiled


def without_cpu_kernels() -> None:
    """Keep DeepSpeed from compiling an op where there is no GPU.

    The op is an all-reduce that only inference uses, and compiling it takes a minute and needs a compiler. Source:
    deepspeed/comm/torch.py builds only what is in this table.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}
