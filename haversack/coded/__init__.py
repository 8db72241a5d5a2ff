"""Coded: a network's weights in as few bytes as they hold information, exact to the bit (docs/format.md)."""
