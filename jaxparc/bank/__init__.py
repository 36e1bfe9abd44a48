"""Rank a bank of pretrained models: check the arguments, score, and hold the result."""
