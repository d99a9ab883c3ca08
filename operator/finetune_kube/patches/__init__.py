"""Patches of libraries, one module per library."""
