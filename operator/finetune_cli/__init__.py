"""The ``finetune`` command, also installed as ``kubectl finetune``."""
