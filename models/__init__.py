"""Networks: encoders, attention, similarities, losses, and the matcher that joins them."""
