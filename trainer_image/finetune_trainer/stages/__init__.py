"""The stages of a job. They are independent of tasks and methods, which are plugins."""
