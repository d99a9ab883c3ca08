"""Carries FineTuneJobs out: a pure plan, and the executors that do what it says."""
