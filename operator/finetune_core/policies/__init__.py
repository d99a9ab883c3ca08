"""The rules of a job's life cycle, one file each."""
