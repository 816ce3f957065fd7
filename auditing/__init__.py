"""What is known of every training pair, and what to do with it: what `python audit.py` is made of."""
