"""Vocabularies: word ids for captions, one JSON file a data set."""
