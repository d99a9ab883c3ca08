"""The host process of a stage.

It starts the worker processes, serves /metrics and /progress, uploads checkpoints and reports how the stage ended.
"""
