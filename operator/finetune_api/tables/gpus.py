"""GPUs by name: their memory, and whether they compute in BF16."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from finetune_api.tables.table import table


class Gpu(StrEnum):
    T4 = "T4"
    V100_16 = "V100-16GB"
    V100_32 = "V100-32GB"
    A10 = "A10"
    A10G = "A10G"
    L4 = "L4"
    RTX_3090 = "RTX3090"
    RTX_4090 = "RTX4090"
    A100_40 = "A100-40GB"
    A100_80 = "A100-80GB"
    L40S = "L40S"
    H100 = "H100"
    H200 = "H200"
    B200 = "B200"

    @property
    def row(self) -> GpuRow:
        return GPUS[self]


@dataclass(frozen=True)
class GpuRow:
    """One GPU."""

    memory_mib: int
    """As nvidia-smi shows it, in MiB."""
    bf16: bool = True
    """Whether it computes in BF16 in hardware, as GPUs do from Ampere on."""

    @property
    def memory_bytes(self) -> int:
        return self.memory_mib << 20


GPUS = table(
    Gpu,
    {
        Gpu.T4: GpuRow(15360, bf16=False),
        Gpu.V100_16: GpuRow(16384, bf16=False),
        Gpu.V100_32: GpuRow(32768, bf16=False),
        Gpu.A10: GpuRow(23028),
        Gpu.A10G: GpuRow(23028),
        Gpu.L4: GpuRow(23034),
        Gpu.RTX_3090: GpuRow(24576),
        Gpu.RTX_4090: GpuRow(24564),
        Gpu.A100_40: GpuRow(40960),
        Gpu.A100_80: GpuRow(81920),
        Gpu.L40S: GpuRow(46068),
        Gpu.H100: GpuRow(81559),
        Gpu.H200: GpuRow(143771),
        Gpu.B200: GpuRow(183359),
    },
)
