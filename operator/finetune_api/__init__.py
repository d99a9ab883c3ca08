"""The contract of finetune-operator: what a user writes, what a stage is told and what it answers. Pydantic only."""
