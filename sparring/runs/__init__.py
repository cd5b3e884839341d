"""Runs: the directory a training leaves, written so that a kill at any moment loses nothing.

Which question it answers: what is on disk, and can it be trusted?

    checkpoint.py  the run directory, its files, epoch states, atomic writes
    records.py     the JSON files as typed values
"""
