"""Rows of training and evaluation files, and generated data sets."""
