"""Strips: runs of layers that are computed some rows at a time, so that few rows between them are kept."""
