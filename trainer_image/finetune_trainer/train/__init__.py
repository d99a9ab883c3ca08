"""The *train* stage: fine-tuning under DeepSpeed ZeRO or DDP, with checkpoints that can be resumed."""
