"""Compressing model weights: calibration, rotation, rounding, checkpoints, Hugging Face."""
