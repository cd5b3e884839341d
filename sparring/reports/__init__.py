"""Reports: what the runs of a folder tell, on one page.

Which question it answers: what do many runs and verdicts say together?

    gather.py  runs and verdicts read from their files and grouped over seeds
    report.py  tables, curves and examples
    page.py    HTML and Markdown
"""
