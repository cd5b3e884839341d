"""Grading: the submissions of a class, judged side by side, and the table of what they came to.

Which question it answers: how did each student do against each defense?

    request.py   GradeRequest, everything that a grading needs, and what a plan of one finds
    submissions.py  who handed in what, of which nothing is believed
    plan.py      looks at what there is to judge, and where each verdict lies
    jobs.py      the jobs that a plan comes to
    work.py      what a job does: judges one submission, or a reference beside it
    levels.py    what a success is worth: gains, ranks, and the five levels
    record.py    grades.json as typed values
    book.py      puts the record together from verdicts, as they come
    tables.py    the tables and their columns
    page.py      grades.html, with grades.html.jinja, and grades.csv
    grade.py     from the request to the written grades
"""
