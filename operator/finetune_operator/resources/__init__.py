"""Kubernetes objects of a job, built from what the plan asks for; all pure."""
