"""``report.html``: the evaluation report, one self-contained page."""
