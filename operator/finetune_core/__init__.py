"""How a FineTuneJob progresses, as pure functions: no I/O, and no library but pydantic."""
