"""Tasks: a defense for somebody else's agent to attack, and the judge apart from it.

Which question it answers: how does one hand out a defense, and what was handed in worth?

    request.py      TaskRequest, everything that one task needs
    fresh.py        an instance that nobody has seen: its seed, width and eps are drawn
    plain.py        the defense in plain PyTorch, without Sparring
    agent.py        the agent's part: instruction, images, check.py
    judging.py      the judge's part, and the reward of what is handed in
    manifest.py     hashes of the judge's part
    wheel.py        this Sparring as a wheel, for the judge's own environment
    bundle.py       task, which writes all of it, as a plain folder or for Harbor
    templates/      the texts of both

Nothing of the reference attack, of hints or of results is in the agent's part.
"""
