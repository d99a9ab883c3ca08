"""The publish stage: weights, tokenizer, scores, model card and report under one digest."""
