"""The Kubernetes operator for FineTuneJobs."""
