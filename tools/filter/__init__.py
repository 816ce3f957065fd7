"""DSDMR's filter on any paired embeddings or similarities, without a model of the suite."""
