"""``report.html``: one self-contained page for the person who asked for the model."""
