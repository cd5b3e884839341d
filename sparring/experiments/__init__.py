"""Experiments: one training, a plan of many, and the schedule that runs jobs.

Which question it answers: how does a request become a trained run, or many?

    request.py   what is asked for, as values that go through JSON
    train.py     one training, or one network of it
    load.py      a trained defense from its run directory
    dataset.py   the data set of a run, found or compared by its contents
    plan.py      what there is to train, and why with these settings
    jobs.py      the jobs that a plan of trainings comes to
    schedule.py  many jobs at once, on this machine or on a cluster
    kept.py      processes that work on one job after the other
    machine.py   what of this machine the process may use
    doctor.py    what this machine can do
    findings.py  what it found, as values and as text
"""
