"""The Kubernetes client and the parser of Jobs and pods, for the operator and the CLI."""
