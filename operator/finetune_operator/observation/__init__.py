"""What Kubernetes says of Jobs and pods, read as the runs that the plan knows; all pure."""
