"""The API types of finetune-operator: FineTuneJob, the configuration of a stage and its report. Needs only pydantic."""
