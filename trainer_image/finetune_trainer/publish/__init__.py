"""The model card of the artifact."""
