"""The train stage: fine-tuning with DeepSpeed ZeRO or DDP, and checkpoints to resume from."""
