"""Measurements of codebooks, and the frame every result is reported in."""
