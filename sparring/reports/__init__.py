"""Reports: what the runs of a folder tell, on one page.

Which question it answers: what do many runs and verdicts say together?

    gather.py    runs and verdicts read from their files and grouped over seeds
    groups.py    what is known of a run, a group of them and the attacks on it
    tables.py    which tables and columns there are
    pictures.py  which curves and examples
    page.py      the files that hold them: HTML and Markdown (from *.jinja), and JSON
"""
