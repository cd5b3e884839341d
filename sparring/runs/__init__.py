"""Runs: the folder that one training writes, and everything that is read from it.

Which question it answers: what is on disk of a training, and can it be trusted?

    records.py    what run.json and its neighbors say, as typed records
    directory.py  the folder of a run, and the states that resuming needs
    files.py      atomic writes, verified reads
"""
