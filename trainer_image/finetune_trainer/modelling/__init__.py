"""Tokenizer, model loading, precision and batching, shared by training and evaluation."""
