"""The losses of TRL's trainers, in a process of its own: transformers and accelerate import TRL where it is installed,
which would slow down every other process. `make install` installs it apart, in ``.venv/trl``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SITE = ROOT / ".venv" / "trl"


def losses_of_trl(request: dict[str, Any]) -> dict[str, dict[str, float]]:
    """For each loss, that of a batch of all rows, and the number of tokens of the first answers.

    Args:
        request: The directories of ``policy`` and ``reference``; ``rows`` by loss; ``others``, the tokens of the other
            answers of KTO; ``weights`` of KTO; ``workspace``, a directory.
    """
    assert (SITE / "trl").is_dir(), f"{SITE} has no TRL; run make install"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(SITE)]), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "tests.trainer.trl_losses"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, dict[str, float]] = json.loads(result.stdout.splitlines()[-1])
    return found


def main() -> None:
    import torch
    from datasets import Dataset
    from torch.nn.functional import cross_entropy
    from transformers import AutoTokenizer, LlamaForCausalLM
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    request = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(request["policy"])
    found: dict[str, dict[str, float]] = {}

    def model(name: str) -> Any:
        return LlamaForCausalLM.from_pretrained(request[name])

    settings: dict[str, Any] = {
        "output_dir": request["workspace"],
        "per_device_train_batch_size": len(request["rows"]["DPO"]),
        "beta": 0.1,
        "max_length": 64,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
    }

    def batch_of(trainer: Any) -> Any:
        return trainer.data_collator([trainer.train_dataset[row] for row in range(len(trainer.train_dataset))])

    for loss, config, kind in (("DPO", DPOConfig, DPOTrainer), ("KTO", KTOConfig, KTOTrainer)):
        arguments = config(**settings, **(request["weights"] if loss == "KTO" else {}))
        trainer: Any = kind(
            model("policy"),
            model("reference"),
            args=arguments,
            train_dataset=Dataset.from_list(request["rows"][loss]),
            processing_class=tokenizer,
        )
        if loss == "KTO":
            trainer.train_dataset = trainer.train_dataset.remove_columns("KL_completion_ids").add_column(
                "KL_completion_ids", request["others"]
            )
        batch = batch_of(trainer)
        rows = len(request["rows"][loss])
        with torch.no_grad():
            value = trainer.compute_loss(trainer.model, batch)
        found[loss] = {"loss": float(value), "tokens": int(batch["completion_mask"][:rows].sum())}

    trainer = ORPOTrainer(
        model("policy"),
        args=ORPOConfig(**settings),
        train_dataset=Dataset.from_list(request["rows"]["ORPO"]),
        processing_class=tokenizer,
    )
    batch = batch_of(trainer)
    with torch.no_grad():
        value, metrics = trainer.get_batch_loss_metrics(trainer.model, batch)
        logits = trainer.model(batch["chosen_input_ids"], attention_mask=batch["chosen_attention_mask"]).logits
        labels = batch["chosen_labels"]
        nll = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    found["ORPO"] = {
        "loss": float(value),
        "nll": metrics["nll_loss"],
        "answer_nll": float(nll),
        "tokens": int((labels != -100).sum()),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
