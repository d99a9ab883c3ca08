"""Runs programs that a model has written, with their tests, so that they can harm nothing."""
