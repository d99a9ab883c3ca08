"""The trainer: runs the stages of a job as processes, in a pod or on a single machine."""
