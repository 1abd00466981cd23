"""Unmasking rules, sampling and the decoding configuration; independent of the model."""
