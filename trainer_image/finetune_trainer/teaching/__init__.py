"""The answers of a teacher to the prompts of rows."""
