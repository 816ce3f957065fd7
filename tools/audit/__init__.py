"""What is known of every training pair, and what to do with it: what `python -m tools.audit` is made of."""
