"""Evaluation: attacks are run, and every adversarial image is checked independently.

Which question it answers: how many images did an attack break, and can that be believed?

    evaluate.py  evaluate, and the verdict it gives
    checks.py    signs that a result should be distrusted
    rates.py     rates with intervals, means over seeds
"""
