"""Requests to the Kubernetes API server, for the operator and for the command line."""
