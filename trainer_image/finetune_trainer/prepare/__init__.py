"""The prepare stage: fetch, check, clean, split and tokenise the data. Needs no GPU, and never imports torch."""
