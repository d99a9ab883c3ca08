"""Tokenizer, model, precision and batches, the same for training and evaluation."""
