"""Calibration: what several techniques learn about a network from calibration inputs alone, without labels."""
