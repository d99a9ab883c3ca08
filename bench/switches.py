"""Steps of LoRA on packed rows with each way to compute them faster, alone and together; see `bench.gpu`.

Without the stages around it: a model of Llama 3 8B's shape with random weights on the device, packed rows of random
tokens, and the functions that the train stage uses. Needs torch, transformers, peft, pydantic and numpy, and Liger for
its kernels. What is missing or fails has a row that says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.loss.loss_utils import ForCausalLMLoss

from finetune_trainer.modelling.fused_loss import FusedLoss, agrees, liger_cross_entropy, plain_output
from finetune_trainer.modelling.fused_norms import fuse_norms, liger_norm
from finetune_trainer.modelling.packed_attention import PackedAttention, installed, supported
from finetune_trainer.train.compiling import compile_layers
from finetune_trainer.train.packing import pack

SEED = 17
RANK = 16
LEARNED = 0.5
"""Share of the tokens of an example, at its end, that are learned."""
WARM_UP, STEPS = 2, 4
MEDIAN, SIGMA = 700, 0.9
"""Of the lengths of the examples, in tokens."""

Batch = dict[str, torch.Tensor]


class Unavailable(Exception):
    """A switch has no effect on this machine; the message says why."""


@dataclass(frozen=True)
class Size:
    """What is measured."""

    layers: int = 32
    hidden: int = 4096
    intermediate: int = 14336
    heads: int = 32
    shared_heads: int = 8
    vocabulary: int = 128256
    row: int = 4096
    rows: int = 4
    """Rows in a step, one at a time."""


TINY = Size(layers=1, hidden=32, intermediate=64, heads=4, shared_heads=2, vocabulary=128, row=64, rows=1)


@dataclass
class Figure:
    """The speed with some switches."""

    switches: str
    tokens_per_second: float = 0.0
    teraflops: float = 0.0
    """Four operations for each weight and token: two forward, two for the gradient of the input."""
    gib: float = 0.0
    loss: float = 0.0
    note: str = ""


@dataclass
class Setting:
    """The model, and what a switch changes in its steps."""

    model: Any
    device: torch.device
    fused: FusedLoss | None = None
    optimizer: dict[str, Any] = field(default_factory=lambda: {"foreach": True})


Switch = Callable[[Setting], AbstractContextManager[None]]


@contextmanager
def varlen(setting: Setting) -> Iterator[None]:
    if setting.device.type != "cuda" or not supported():
        raise Unavailable("needs a GPU with torch.nn.attention.varlen")
    from torch.nn.attention.varlen import varlen_attn

    kernel: Any = varlen_attn
    with installed(PackedAttention(kernel)) as attention:
        yield
    if not attention.layers:
        raise Unavailable("no layer was computed with the kernel")


@contextmanager
def fused_loss(setting: Setting) -> Iterator[None]:
    if setting.device.type != "cuda":
        raise Unavailable("needs a GPU")
    output, kernel = plain_output(setting.model), liger_cross_entropy()
    assert output is not None
    if not agrees(kernel, output, setting.device, torch.bfloat16):
        raise Unavailable("the kernel differs from PyTorch on this GPU")
    setting.fused = FusedLoss(output, kernel, torch.bfloat16)
    try:
        yield
    finally:
        setting.fused = None


@contextmanager
def fused_norms(setting: Setting) -> Iterator[None]:
    if setting.device.type != "cuda":
        raise Unavailable("needs a GPU")
    try:
        if not fuse_norms(setting.model, liger_norm(), setting.device, torch.bfloat16):
            raise Unavailable("the kernel differs from PyTorch on this GPU")
        yield
    finally:
        for module in setting.model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                vars(module).pop("forward", None)


@contextmanager
def compiled(setting: Setting) -> Iterator[None]:
    if setting.device.type != "cuda":
        raise Unavailable("minutes on a CPU")
    compile_layers(setting.model)
    try:
        yield
    finally:
        for module in setting.model.modules():
            module._compiled_call_impl = None
        torch.compiler.reset()


@contextmanager
def fused_adamw(setting: Setting) -> Iterator[None]:
    before, setting.optimizer = setting.optimizer, {"fused": True}
    try:
        yield
    finally:
        setting.optimizer = before


@contextmanager
def recomputed(setting: Setting) -> Iterator[None]:
    base = setting.model.get_base_model()
    name = "activation" if hasattr(base, "activation_checkpointing_enable") else "gradient"
    getattr(base, f"{name}_checkpointing_enable")({"use_reentrant": False})
    base.enable_input_require_grads()
    try:
        yield
    finally:
        base.disable_input_require_grads()
        getattr(base, f"{name}_checkpointing_disable")()


SWITCHES: dict[str, Switch] = {
    "varlen attention": varlen,
    "Liger loss": fused_loss,
    "Liger norms": fused_norms,
    "fused AdamW": fused_adamw,
    "compile": compiled,
    "recomputed activations": recomputed,
}
TOGETHER = (
    ("varlen attention", "Liger loss", "Liger norms", "fused AdamW"),
    ("varlen attention", "Liger loss", "fused AdamW", "compile"),
)
"""Without recomputed activations, which save memory and cost time; the compiler fuses norms by itself."""


def measure(device: torch.device, size: Size, seconds: float, report: Callable[[Figure], None]) -> list[Figure]:
    """Measure each switch alone and the best together, and report each figure at once.

    Args:
        device: Where to compute.
        size: The model and the rows.
        seconds: After this time, nothing else begins.
        report: Is called with each figure.
    """
    deadline = time.monotonic() + seconds
    setting = Setting(make_model(device, size), device)
    batches = make_batches(device, size)
    tokens = sum(int((batch["input_ids"] != 0).sum()) for batch in batches)
    weights = sum(p.numel() for p in setting.model.parameters() if not p.requires_grad)
    figures = []
    for names in ((), *((name,) for name in SWITCHES), *TOGETHER):
        figure = Figure(" + ".join(names) or "none")
        if time.monotonic() > deadline:
            figure.note = "left out: no time"
        else:
            _measured(figure, setting, names, batches)
        if figure.tokens_per_second:  # The duration of a step until here.
            figure.tokens_per_second = tokens / figure.tokens_per_second
            figure.teraflops = 4 * weights * figure.tokens_per_second / 1e12
        figures.append(figure)
        report(figure)
    return figures


def _measured(figure: Figure, setting: Setting, names: tuple[str, ...], batches: list[Batch]) -> None:
    on_gpu = setting.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        with ExitStack() as stack:
            skipped = []
            for name in names:
                try:
                    stack.enter_context(SWITCHES[name](setting))
                except Exception as error:
                    if len(names) == 1:
                        raise
                    skipped.append(f"{name} ({error})")
            figure.note = f"without {', '.join(skipped)}" if skipped else ""
            figure.tokens_per_second, figure.loss = _seconds_of_step(setting, batches)
            if on_gpu:
                figure.gib = torch.cuda.max_memory_allocated() / 2**30
    except Exception as error:  # Out of memory, a kernel that does not compile: the others are measured.
        figure.note = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]
        setting.model.zero_grad(set_to_none=True)


def _seconds_of_step(setting: Setting, batches: list[Batch]) -> tuple[float, float]:
    """The duration of a step, and the loss of the last one. The adapter starts anew, so that losses can be compared."""
    model = setting.model
    torch.manual_seed(SEED)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            torch.nn.init.kaiming_uniform_(parameter.data, a=5**0.5)
        elif "lora_B" in name:
            parameter.data.zero_()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, **setting.optimizer)
    count = sum((batch["labels"][:, 1:] != -100).sum() for batch in batches)
    began = loss = 0.0
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            _wait(setting.device)
            began = time.perf_counter()
        total = torch.zeros((), device=setting.device)
        for batch in batches:
            part = _loss(setting, batch, torch.as_tensor(count))
            part.backward()
            total += part.detach()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss = float(total)
    _wait(setting.device)
    return (time.perf_counter() - began) / STEPS, loss


def _loss(setting: Setting, batch: Batch, count: torch.Tensor) -> Any:
    labels = batch["labels"]
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    fused = setting.fused
    with torch.autocast(setting.device.type, torch.bfloat16), fused.hidden_states() if fused else nullcontext():
        logits = setting.model(**inputs, use_cache=False).logits
    if fused:
        return fused.loss(logits, labels, count)
    return ForCausalLMLoss(logits, labels, logits.shape[-1], num_items_in_batch=count)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def make_model(device: torch.device, size: Size) -> Any:
    """A model with random weights in BF16 and an adapter on all linear layers in FP32."""
    from peft import LoraConfig, get_peft_model

    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.shared_heads,
        max_position_embeddings=2 * size.row,
    )
    torch.manual_seed(SEED)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    adapter = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, adapter).train()


def make_batches(device: torch.device, size: Size) -> list[Batch]:
    """Packed rows with examples of varying length; token 0 is padding."""
    draw = np.random.default_rng(SEED)
    median = min(MEDIAN, size.row // 4)
    lengths = np.clip(draw.lognormal(np.log(median), SIGMA, 40 * size.rows), 8, size.row).astype(np.int64)
    batches = []
    for examples in pack(lengths, size.row)[: size.rows]:
        ids = np.zeros(size.row, dtype=np.int64)
        labels = np.full(size.row, -100)
        filled = 0
        positions = []
        for length in lengths[examples].tolist():
            part = slice(filled, filled + length)
            ids[part] = draw.integers(1, size.vocabulary, length)
            learned = slice(filled + int((1 - LEARNED) * length), filled + length)
            labels[learned] = ids[learned]
            positions.append(np.arange(length))
            filled += length
        positions.append(np.arange(size.row - filled))
        arrays = {"input_ids": ids, "labels": labels, "position_ids": np.concatenate(positions)}
        move = partial(torch.as_tensor, device=device)
        batches.append({name: move(array)[None] for name, array in arrays.items()})
    return batches


def table(figures: list[Figure]) -> str:
    """The figures as a table in Markdown."""
    rows = ["| switches | tokens/s | TFLOP/s | peak GiB | loss | note |", "|---|---:|---:|---:|---:|---|"]
    for figure in figures:
        numbers = (
            f"{figure.tokens_per_second:,.0f} | {figure.teraflops:.1f} | {figure.gib:.1f} | {figure.loss:.4f}"
            if figure.tokens_per_second
            else "| | |"
        )
        rows.append(f"| {figure.switches} | {numbers} | {figure.note} |")
    return "\n".join(rows)
