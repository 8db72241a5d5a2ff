"""Fuzzing: whole commands over damaged and hostile files, which must end with a message and leave all else alone.

    python -m tests.fuzz --minutes 10

A case is a subject ("coded"), a seed and a number; the same three make the same files and the same command line.
"""
