"""Data: catalogue, captions, regions, noisy correspondence, batches."""
