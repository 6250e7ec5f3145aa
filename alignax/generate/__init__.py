"""Sampling from a decoder, and rewards of what it says."""
