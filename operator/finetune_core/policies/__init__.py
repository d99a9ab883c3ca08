"""The rules of a job's life, one small file each; all pure."""
