"""Sampling from a decoder."""
