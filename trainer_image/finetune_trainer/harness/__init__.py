"""Tasks of lm-eval (``evaluation.harness``), on the base model and the tuned model.

`check` is what prepare does before a GPU is held: it loads each task and runs its first example without a model.
`evaluation` runs the tasks. Only this package imports lm-eval, and only if a job names a task.
"""
