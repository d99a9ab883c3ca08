"""Builds the child objects of a FineTuneJob. Pure."""
