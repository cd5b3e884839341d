"""sparring job: one request of a schedule, answered with one line of JSON."""

from __future__ import annotations

import json
import os
import signal
import threading
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any, TextIO

import typer

from sparring.backend import choice as backend_choice
from sparring.cli.program import EXIT_INTERRUPTED, EXIT_TERMINATED, Failed, app, handled
from sparring.errors import told
from sparring.evaluation.request import EvaluationPlanRequest, EvaluationRequest
from sparring.experiments.request import Answer, PlanRequest, TrainingRequest
from sparring.grading.request import GradeRequest, Task

_SECONDS_TO_END = 60.0


@app.command("job", hidden=True)
def work(
    request: Annotated[str, typer.Argument(help="What to do, in JSON; or -, for many.")],
) -> None:
    """Work on one request of a schedule and answer with one line of JSON.

    The request is {"plan": ...}, {"plan_evaluations": ...}, {"plan_grades": ...}, {"train": ...},
    {"evaluate": ...} or {"grade": ...}; the answer is {"result": ...} or {"error": MESSAGE}.
    Whatever else is printed goes to standard error. Of - requests are lines of standard input,
    {"task": REQUEST, "log": FILE}; what is printed goes to the file, and each is answered.
    """
    answering = os.dup(1)
    os.dup2(2, 1)  # what a framework prints must not get between
    if request == "-":
        with os.fdopen(answering, "w", encoding="utf-8") as output:
            _serve(output)
        return
    answer = Answer()
    try:
        with handled("The scheduler starts it again."):
            answer = Answer(_done(json.loads(request)))
    except Failed as failed:
        answer = Answer(message=failed.message)
        raise
    except Exception as error:
        answer = Answer(message=f"{type(error).__name__}: {error}")
        raise
    finally:
        # Nobody may be left to hear it.
        with suppress(OSError), os.fdopen(answering, "w", encoding="utf-8") as output:
            output.write(answer.as_line())


def _serve(output: TextIO) -> None:
    """Work on one request after the other; end as SIGTERM would when standard input closes."""
    lines: SimpleQueue[bytes] = SimpleQueue()

    def read() -> None:
        with os.fdopen(os.dup(0), "rb") as given:
            while line := given.readline():
                lines.put(line)
        os.kill(os.getpid(), signal.SIGTERM)
        lines.put(b"")  # one that was about to wait for a line does not hear the signal

    threading.Thread(target=read, daemon=True).start()
    with handled():
        while line := lines.get():
            asked = json.loads(line)
            with Path(asked["log"]).open("ab") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            output.write(_answered(asked["task"]).as_line() + "\n")
            output.flush()


def _answered(request: dict[str, Any]) -> Answer:
    """Do what is asked for, and say what came of it; a signal ends all."""
    try:
        with handled():
            return Answer(_done(request, kept=True))
    except Failed as failed:
        if failed.exit_code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
            raise
        return Answer(message=failed.message or f"exit code {failed.exit_code}")
    except Exception as error:
        traceback.print_exc()
        return Answer(message=told(error))


def _done(request: dict[str, Any], kept: bool = False) -> Any:
    """Do what is asked for; what comes of it, as JSON values."""
    backend_choice.choose()
    if "plan" in request:
        from sparring.experiments.plan import plan

        return plan(PlanRequest.from_json(request["plan"])).as_json()
    if "plan_evaluations" in request:
        from sparring.evaluation import plan as evaluations

        wanted = EvaluationPlanRequest.from_json(request["plan_evaluations"])
        return evaluations.plan(wanted).as_json()
    if "plan_grades" in request:
        from sparring.grading import plan as grading

        return grading.plan(GradeRequest.from_json(request["plan_grades"])).as_json()
    if not kept:
        _stop_with_standard_input()
    # A job before this one may not have quite ended.
    if "evaluate" in request:
        evaluation = EvaluationRequest.from_json(request["evaluate"])
        _evaluate(replace(evaluation, wait=_SECONDS_TO_END))
    elif "grade" in request:
        _grade(Task.from_json(request["grade"]))
    else:
        training = TrainingRequest.from_json(request["train"])
        _train(replace(training, wait=_SECONDS_TO_END))
    return None


def _train(wanted: TrainingRequest) -> None:
    """Train a defense or a network, and print how it goes."""
    from sparring.cli import display
    from sparring.cli.train import summary
    from sparring.experiments.train import train, train_network

    with display.shown(quiet=False) as progress:
        if wanted.network is None:
            print(summary(train(wanted, progress=progress), wanted))
        else:
            train_network(wanted, progress=progress)


def _evaluate(wanted: EvaluationRequest) -> None:
    """Evaluate a verdict or a chunk of it, and print how it goes."""
    print("starting", flush=True)  # the schedule shows the last line

    from sparring.evaluation.evaluate import evaluate

    verdict = evaluate(wanted, progress=_tell)
    if wanted.chunk is None:
        print(verdict)


def _grade(task: Task) -> None:
    """Judge what a student handed in, and print how it goes."""
    print("starting", flush=True)

    from sparring.grading.work import work as judged

    wanted = replace(task.request, wait=_SECONDS_TO_END)
    print(judged(replace(task, request=wanted), _tell))


def _tell(done: int, total: int, text: str) -> None:
    print(f"{done}/{total} images, {text}" if total else text, flush=True)


def _stop_with_standard_input() -> None:
    """End this process as SIGTERM would when standard input closes, as it does with its owner."""

    def watch() -> None:
        # Not sys.stdin, whose lock would be held when the interpreter ends.
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
