"""The trainer on one GPU, with a model of the shape of Llama 3 8B. Prints one JSON line for each figure.

Needs no download: the weights are random. LoRA of rank 16 on all linear layers, BF16, micro-batches of one row of 4,096
tokens. ``python -m bench.gpu`` measures ``switches`` in less than nine minutes; ``--tiny`` tries it without a GPU. The
other parts (``--only zero2 plain``) run whole stages, with the tokenizer and the conversations of the chat example
(``examples/make_inputs.py chat``), which are concatenated, so that lengths vary up to the row.

- ``gpu.switch``: tokens per second, arithmetic and memory of a step with each way to compute it faster, alone and
  together (`bench.switches`), and at the end all of them in a table.
- ``gpu.matmul``: the throughput of a product of large BF16 matrices, as a reference.
- ``gpu.attention.<kind>``: milliseconds of one layer's attention over a packed row, forward and backward: ``masked`` as
  transformers computes it with SDPA, ``causal`` as if the row were one conversation, ``varlen`` with the boundaries.
- ``gpu.train.zero<N>``: real tokens per second of our train stage. It also reports the peak memory, the model's
  arithmetic as a share of ``gpu.matmul``, the seconds of the whole stage and those of its steps.
- ``gpu.train.plain``: the same for a script with TRL's SFTTrainer, with padding and ZeRO-2 (``plain_sft.py``).
- ``gpu.evaluate``: seconds of the evaluate stage: loss and greedy generation with base model and adapter.

``--inputs`` is the directory that ``make_inputs.py`` wrote to. A machine with only torch and transformers also needs
pydantic, peft and liger-kernel, carried in a directory that ``PYTHONPATH`` names with ``operator`` and
``trainer_image``.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
ROW = 4096
ROWS = 4
"""Rows in a batch."""
TURNS_MEDIAN, TURNS_SIGMA, MOST_TURNS = 12, 0.9, 45
TEST_ROWS = 64
PARTS = ("switches", "attention", "zero0", "zero2", "zero3", "evaluate", "plain")
"""``evaluate`` and ``plain`` use the data of the last training."""
SEED = 17
SECONDS = 460
"""After this time, no other switch is measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=Path, default=EXAMPLES)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=("switches",))
    parser.add_argument("--tiny", action="store_true", help="the switches with a tiny model on the CPU")
    options = parser.parse_args()
    if options.tiny:
        switches(tiny=True)
        return
    card = matmul_flops()
    if "switches" in options.only:
        switches()
    if "attention" in options.only:
        attention()
    trainings = [int(part[-1]) for part in options.only if part.startswith("zero")]
    if not trainings:
        return
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        model = root / "model"
        parameters = make_model(model, options.inputs / "models/small-causal", options.layers)
        mean_tokens = join_conversations(options.inputs / "data/chat", root, model)
        spec = {
            "model": {"uri": model.as_uri()},
            "task": {"type": "InstructionTuning"},
            "dataset": {split: {"uri": (root / f"{split}.jsonl").as_uri()} for split in ("train", "test")},
            "training": {
                "maxSteps": options.steps,
                "batchSize": ROWS,
                "maxBatchSizePerDevice": 1,
                "maxSequenceLength": ROW,
                "learningRate": 2e-4,
                "evaluateEverySteps": 1000,
            },
            "evaluation": {"metrics": ["loss", "rouge_l"], "generation": {"maxNewTokens": 64}},
        }
        from bench.train import Job, plain

        for zero in trainings:
            job = Job(root / f"zero{zero}", spec, zero=zero, device="gpu", processes=1)
            with measured() as usage:
                figures = job.train()
            report_training(f"gpu.train.zero{zero}", figures, usage, parameters, card)
        if "evaluate" in options.only:
            with measured() as usage:
                job.stage("evaluate", job.revision.parent.name)
            report("gpu.evaluate", usage["seconds"], "s", rows=TEST_ROWS, memory_gib=usage["gib"])
        if "plain" in options.only:
            per_step = round(ROWS * ROW / mean_tokens)
            with measured() as usage:
                # Two of the longest conversations in one micro-batch exceed the memory.
                figures = plain("plain_sft.py", job, conversations=per_step, conversationsPerDevice=1)
            report_training("gpu.train.plain", figures, usage, parameters, card, conversations=per_step)


def report_training(
    name: str, figures: dict[str, float], usage: dict[str, float], parameters: int, card: float, **more: Any
) -> None:
    """Report a training. A frozen weight costs four operations per token: two forward, two for the input gradient."""
    speed = figures["tokensPerSecond"]
    more |= {
        "memory_gib": usage["gib"],
        "share_of_matmul": round(4 * parameters * speed / card, 3),
        "loss": round(figures["validationLoss"], 4),
        "seconds": round(usage["seconds"], 1),
        "steps_seconds": round(figures["tokens"] / speed, 1),
    }
    report(name, speed, "tokens/s", **more)


def switches(tiny: bool = False) -> None:
    """Each way to compute a step faster, alone and together; on the CPU if ``tiny``."""
    import torch

    from bench.switches import TINY, Figure, Size, measure, table

    def line(figure: Figure) -> None:
        more = {"tflops": round(figure.teraflops, 1), "gib": round(figure.gib, 2), "loss": round(figure.loss, 4)}
        report("gpu.switch", figure.tokens_per_second, "tokens/s", switches=figure.switches, **more, note=figure.note)

    device = torch.device("cpu" if tiny else "cuda")
    print(table(measure(device, TINY if tiny else Size(), SECONDS, line)))


def report(name: str, value: float, unit: str, digits: int = 4, **more: Any) -> None:
    print(json.dumps({"name": name, "value": round(value, digits), "unit": unit, **more}), flush=True)


def matmul_flops(size: int = 8192) -> float:
    """Operations per second in products of random BF16 matrices."""
    import torch

    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    flops = 2 * size**3 / (milliseconds(lambda: left @ right) / 1e3)
    report("gpu.matmul", flops / 1e12, "TFLOP/s", card=torch.cuda.get_device_name(), torch=torch.__version__)
    return flops


def attention(heads: int = 32, shared: int = 8, width: int = 128, conversations: int = 5) -> None:
    """One layer's attention over a row of ``conversations`` of similar length, with each implementation."""
    import torch
    from torch.nn.attention.varlen import varlen_attn
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    query = torch.randn(1, heads, ROW, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    key, value = (
        torch.randn(1, shared, ROW, width, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(2)
    )
    bounds = torch.linspace(0, ROW, conversations + 1, device="cuda").to(torch.int32)
    number = torch.bucketize(torch.arange(ROW, device="cuda"), bounds[1:], right=True)
    mask = (number[:, None] == number[None, :]).tril()[None, None]
    longest = int(bounds.diff().max())

    def spread(tensor: Any) -> Any:
        return tensor.repeat_interleave(heads // shared, dim=1)

    def masked() -> Any:
        return sdpa(query, spread(key), spread(value), attn_mask=mask)

    def causal() -> Any:
        return sdpa(query, key, value, is_causal=True, enable_gqa=True)

    def varlen() -> Any:
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, spread(key), spread(value)))
        out: Any = varlen_attn(q, k, v, bounds, bounds, longest, longest, window_size=(-1, 0))
        return out.transpose(0, 1)[None]

    reference = masked().detach().float()
    difference = float((varlen().detach().float() - reference).norm() / reference.norm())
    for kind in (masked, causal, varlen):
        more = {"difference_to_masked": round(difference, 5)} if kind is varlen else {}
        report(f"gpu.attention.{kind.__name__}", milliseconds(lambda do=kind: do().sum().backward()), "ms", **more)


def milliseconds(do: Callable[[], object], times: int = 20) -> float:
    """The duration of one call, after three calls to warm up."""
    import torch

    for _ in range(3):
        do()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(times):
        do()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / times


def make_model(into: Path, small: Path, layers: int) -> int:
    """Save random weights in Llama 3 8B's shape with the small model's tokenizer; return the parameter count."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(small, model_max_length=2 * ROW)
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=2 * ROW,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(SEED)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    del model
    torch.cuda.empty_cache()
    return parameters


def join_conversations(chat: Path, into: Path, model: Path) -> float:
    """Write ``train.jsonl`` and ``test.jsonl`` with longer conversations; return the mean number of tokens in train."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    draw = random.Random(SEED)
    counts: list[int] = []
    for split, rows in (("train", 1200), ("test", TEST_ROWS)):
        turns = [json.loads(line)["messages"] for line in (chat / f"{split}.jsonl").read_text().splitlines()]
        lines = []
        for _ in range(rows):
            number = max(1, min(MOST_TURNS, round(draw.lognormvariate(0, TURNS_SIGMA) * TURNS_MEDIAN)))
            messages = [message for _ in range(number) for message in without_system(draw.choice(turns))]
            lines.append(json.dumps({"messages": messages}) + "\n")
            if split == "train":
                counts.append(len(tokenizer.apply_chat_template(messages, return_dict=False)))
        (into / f"{split}.jsonl").write_text("".join(lines))
    return sum(counts) / len(counts)


def without_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    return [message for message in messages if message["role"] != "system"]


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Measure the seconds of the block and the peak growth of GPU memory in GiB, sampled every half second."""
    usage = {"seconds": 0.0, "gib": 0.0}
    before = used_gib()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            usage["gib"] = max(usage["gib"], round(used_gib() - before, 1))

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    try:
        yield usage
    finally:
        usage["seconds"] = time.perf_counter() - began
        ended.set()
        watcher.join()


def used_gib() -> float:
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024


if __name__ == "__main__":
    main()
