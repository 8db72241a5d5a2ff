"""Proving: a result held against every runtime that can compute it, and the layers its rounding hurts."""
