"""Replacements: cheaper blocks in the place of convolutions, with numbers that come from the convolution itself."""
