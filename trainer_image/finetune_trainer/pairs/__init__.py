"""What the text-to-text tasks share: each row has a source text and the target text that the model learns."""
