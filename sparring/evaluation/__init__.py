"""Evaluation: attacks are run, and every adversarial image is checked independently.

Which question it answers: how many images did an attack break, and can that be believed?

    request.py   EvaluationRequest, everything that one evaluation needs; and plans of many
    evaluate.py  from the clean answers over the attack to the verdict, resumed where it was left
    judge.py     checks adversarial images and asks the defense about them
    submission.py  files of adversarial images, of which nothing is believed
    judging.py   from such a file, or from an attack that ran apart, to the verdict
    apart.py     runs a file's attack in a process of its own, and takes its images
    attacker.py  what that process does
    supervisor.py  the process between both, which ends all that the attack began
    isolation.py  by what means both are kept apart here
    landlock.py  by which it gives up writing elsewhere
    guard.py     finds what an attack changed of the defense, and puts it back
    verdict.py   Verdict, what came of it, and its files
    folder.py    where verdicts lie, that one process writes there, and what stays
    trace.py     what the first of the images go through, step by step
    page.py      a verdict to look at, with verdict.html.jinja and cell.html.jinja
    account.py   what each part of an attack did and why images resist, in sentences
    strips.py    the small curves of what an image goes through
    checks.py    warnings: signs that a result should be distrusted
    slopes.py    those that the attack's loss and its gradients give
    port.py      a defense written anew in an attack's file, compared with it
    planted.py   adversarial examples that are known to be there, for the attack to find
    plan.py      what there is to evaluate
    jobs.py      the jobs that a plan of evaluations comes to, verdicts or chunks
    rates.py     rates with intervals, means over seeds
"""
