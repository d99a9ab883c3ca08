"""The trainer: the four stages of a job as processes, the same on a laptop and in a pod."""
