"""The stages of a job, each a recipe from its inputs to its result. They name no task and no method."""
