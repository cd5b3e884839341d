"""Experiments: one training, a plan of many, and the schedule that runs them.

Which question it answers: how does a request become a trained run, or many?

    train.py     train, load, plan
    schedule.py  many trainings at once, on this machine or on a cluster
    machine.py   what of this machine the process may use
    doctor.py    what this machine can do
"""
