"""Training: one network trained by one recipe.

Which question it answers: what happens to a batch until it has changed the weights?

    settings.py     hyperparameters, and the one function that decides them
    recipe.py       the hooks of a recipe that a defense overrides
    loop.py         TrainLoop: epochs, steps, schedule, EMA, the watch for divergence
    muon.py         the optimizer of the preset fast
    callbacks.py    what a training tells of itself
    notebook.py     a callback that shows a line in a notebook
    tensorboard.py  a callback that logs for TensorBoard
    memory.py       freed memory kept for the next step
    threads.py      how many threads of a CPU, by timed steps
"""
