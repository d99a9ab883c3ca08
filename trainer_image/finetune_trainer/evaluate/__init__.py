"""The evaluate stage: metrics of baseline and tuned model, confidence intervals and gates."""
