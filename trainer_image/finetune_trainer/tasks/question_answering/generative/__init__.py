"""QuestionAnswering with models that generate their answers."""
