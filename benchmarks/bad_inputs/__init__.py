"""What users get wrong, through the real command lines, and what they are told.

python -m benchmarks.bad_inputs
"""
