"""The evaluate stage: baseline and tuned model on the same test split, with intervals, and the gates."""
