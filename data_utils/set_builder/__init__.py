"""What builders of small sets of real pictures share: twins and splits, region features, storing, texts.

A builder finds drawings of concepts by several artists and captions of the concepts; the rest is done here, in the same
way for every set.
"""
