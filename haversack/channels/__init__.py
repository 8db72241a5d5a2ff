"""Channels: which of a network's channels belong together, and what each choice of how many stay would cost."""
