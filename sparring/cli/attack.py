"""sparring attack: attack trained defenses and judge what comes of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from traceback import print_exception
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sparring import attacks, defenses
from sparring import data as data_sets
from sparring.backend import choice as backend_choice
from sparring.cli.options import (
    BackendOption,
    assignments,
    completed,
    from_fields,
    option_of,
)
from sparring.cli.program import app, command_line, handled
from sparring.defenses.sources import is_name
from sparring.errors import AttackError, DefenseError, SettingsError, unknown_name
from sparring.evaluation.request import EvaluationPlanRequest, EvaluationRequest, is_directory
from sparring.experiments.request import option
from sparring.models.reference import Reference, is_reference

if TYPE_CHECKING:
    from sparring.evaluation.verdict import Verdict

_option = partial(option_of, EvaluationRequest)


@dataclass(frozen=True)
class ManyOptions:
    """How `sparring attack` goes about many evaluations."""

    seeds: str | None = option(
        None, "Attack the runs of each of these seeds, in RUNS/seed-N.", "A-B,C"
    )
    jobs: str | None = option(
        None, "Evaluate so many verdicts, or chunks of one, at a time, as processes.", "N|auto"
    )
    cluster: str | None = option(
        None, "Evaluate on a Ray cluster, or start one here.", "ADDRESS|local"
    )


@app.command(epilog="Example: sparring attack blur pgd --eps 0.1 -n 20 -o steps=100")
@from_fields
def attack(
    *,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="DEFENSE|ATTACK",
            help="Defenses: names or run directories of trained ones, or all of them: all; a file "
            "of yours with the class of one: mydefense.py, whose code runs here; or models of your "
            "own: model.py:build, which runs too, model.onnx, .pt2 or .keras. "
            f"Then attacks: {', '.join(attacks.NAMES)} (each defense's reference attack), a "
            "library's such as autoattack, or a file.py with a function attack(defense, x, y, "
            "threat). Default: pgd.",
            show_default=False,
            autocompletion=completed(defenses.listed, "all", *attacks.NAMES, *attacks.LIBRARIES),
        ),
    ],
    data: Annotated[str | None, _option("data", words=data_sets.NAMES)] = None,
    eps: Annotated[str | None, _option("eps")] = None,
    images: Annotated[str | None, _option("images")] = None,
    options: Annotated[list[str] | None, _option("options")] = None,
    model: Annotated[list[str] | None, _option("model")] = None,
    request: partial[EvaluationRequest],
    how: ManyOptions,
    backend: BackendOption = None,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="If the attack raises, print where, in full.")
    ] = False,
    in_process: Annotated[
        bool,
        typer.Option("--in-process", help="Run a file in the judge's process, which it can cheat."),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but the verdict.")
    ] = False,
) -> None:
    """Attack trained defenses and judge what comes of it.

    Every adversarial image is checked independently: shape, type, range, distance, and whether the
    defense answers with another label and does not reject it. The verdict goes to a folder of the
    run: verdict.json, adversarial.safetensors, and verdict.html to look at; an interrupted
    evaluation goes on from there. A finished verdict is never replaced without --force; other
    options have a folder of their own.

    An attack from a file runs in a process of its own, apart from its judge, so that the verdict
    can be trusted though the file cannot; what it prints goes to attack.log beside the verdict.

    Several defenses, attacks, radii or seeds, and 'all', are evaluated as jobs of their own, one
    after the other or --jobs at a time; what is finished is skipped, and one that fails does not
    stop the others. With more places than verdicts the images of each are shared out.
    """
    with handled("The same command goes on with the images that are left."):
        chosen = backend_choice.choose(backend)
        named, by = _split(words, request.keywords["runs"])
        radii = [] if eps is None else [radius.strip() for radius in eps.split(",")]
        if not all(radii):
            raise typer.BadParameter(f"--eps: expected radii as 0.01,8/255, got {eps!r:.80}")
        common = request(
            defense=named[0],
            attack=by[0],
            data=data,
            eps=radii[0] if radii else None,
            images=indices(images),
            options=assignments(options or [], "--option"),
            model=assignments(model or [], "--model"),
            apart=not in_process,
        )
        several = max(len(named), len(by), len(radii)) > 1 or named == ["all"]
        if (several or how.seeds) and common.out is not None:
            raise typer.BadParameter("--out goes with a single defense, attack and eps")
        if several or any(value is not None for value in (how.seeds, how.jobs, how.cluster)):
            if traceback:
                raise typer.BadParameter(
                    "--traceback goes with a single defense, attack and eps, without --jobs"
                )
            asked = EvaluationPlanRequest(
                defenses=named,
                attacks=by,
                eps=radii,
                seeds=_seeds(how.seeds, named),
                common=common,
            )
            _attack_many(asked, how, chosen, quiet)
        else:
            _attack_one(common, traceback, quiet)


def _attack_one(request: EvaluationRequest, traceback: bool, quiet: bool) -> None:
    """Evaluate one attack on one defense here, and print the verdict."""
    from sparring.cli import display
    from sparring.evaluation.evaluate import evaluate

    total = len(request.images or ()) or request.n
    with _explained(traceback), display.counted(quiet, total) as progress:
        verdict = evaluate(request, progress=progress)
    print(verdict)
    told_of_files(verdict)


def told_of_files(verdict: Verdict) -> None:
    """Print where a verdict lies, and how to attack what failed."""
    file = verdict.file
    assert file is not None  # a request from the command line is saved
    if file.is_relative_to(Path.cwd()):
        file = file.relative_to(Path.cwd())
    print(f"Verdict   {file}, adversarial.safetensors and examples.svg")
    if verdict.failed:
        again = command_line(*sys.argv[1:], "--images", ",".join(map(str, verdict.failed)))
        print(f"Failed    {again}")
    print(f"Page      {file.with_name('verdict.html')}")


def _attack_many(asked: EvaluationPlanRequest, how: ManyOptions, backend: str, quiet: bool) -> None:
    """Evaluate many attacks as jobs, and end with a table and what failed."""
    from sparring.cli import display, many
    from sparring.evaluation import jobs

    places = many.Places(how.jobs, how.cluster)
    environment = {"KERAS_BACKEND": backend}
    with display.shown(quiet) as progress:
        progress.message("Looking at what there is to do.")
    plan = jobs.plan(asked, environment)
    done = places.run(lambda room: jobs.jobs_of(plan, room), plan.devices, environment, quiet)
    # Of several failed ones of a verdict the first: the others need it.
    messages = {job.folder: job.message for job in reversed(done) if job.state == "failed"}
    display.print_rows(display.rows_of_verdicts(plan.verdicts, messages))
    many.end(done)


def _split(words: Sequence[str], runs: Path) -> tuple[list[str], list[str]]:
    """Tell names of defenses from names of attacks, which come after them.

    Args:
        words: names, files and directories.
        runs: folder of runs.

    Returns:
        The defenses, and the attacks.

    Raises:
        SettingsError: for a word that is neither, or not in its place.
    """
    count = next((at for at, word in enumerate(words) if _is_attack(word)), len(words))
    named, by = words[:count], words[count:]
    for word in words:
        if not _is_attack(word) and not _is_defense(word, runs):
            _refuse(word, first=word == words[0])
    if not named and by[0].endswith(".py"):
        try:
            defenses.describe(by[0])
        except DefenseError as error:
            raise DefenseError(
                f"{error}. Of a model of your own, expected the name of a function that gives the "
                f"model too, as {by[0]}:build"
            ) from error
    if not named:
        raise SettingsError(f"expected the name of a defense before the attack {by[0]!r}, got none")
    if late := [word for word in by if not _is_attack(word)]:
        raise SettingsError(
            f"expected names of attacks after the attack {by[0]!r}, got the defense {late[0]!r}"
        )
    if "all" in named and len(words) > len(by) + 1:
        raise SettingsError(
            "all: expected it alone in place of defenses, which it stands for all of; attacks are "
            f"named one by one. Got {', '.join(named)}"
        )
    return list(dict.fromkeys(named)), list(dict.fromkeys(by)) or ["pgd"]


def _is_attack(word: str) -> bool:
    """Whether a word is an attack's name or file; a file with a defense's class is that."""
    return attacks.is_name(word) and not defenses.is_in_file(word)


def _is_defense(word: str, runs: Path) -> bool:
    """Whether a word is a defense's name or file, or the path or the name of what may be its run.

    A run tells better than we what is missing when the file of its class is.
    """
    if is_reference(word) and not defenses.is_in_file(word):
        Reference.of(word)  # which refuses what cannot be loaded safely
        return True
    if word == "all" or is_directory(word) or defenses.is_known(word):
        return True
    return is_name(word) and any(runs.glob(f"*/{word}/run.json"))


def _refuse(word: str, first: bool) -> NoReturn:
    """Raise SettingsError for a word that is no defense and no attack, by what it is like."""
    of_attacks = [*attacks.NAMES, *attacks.LIBRARIES]
    known = defenses.listed()
    close = get_close_matches(word[:80], [*known, *of_attacks], n=1)
    if first or (close and close[0] in known):
        defenses.describe(word)  # which refuses it
    raise SettingsError(unknown_name("attack", word, [*of_attacks, "a file ending in .py"]))


@contextmanager
def _explained(wanted: bool) -> Iterator[None]:
    """Print the full traceback of what an attack raised, if that is wanted."""
    try:
        yield
    except AttackError as error:
        if wanted:
            print_exception(error.__cause__ or error)
        raise


def indices(text: str | None) -> list[int] | None:
    """Read indices of images, from I,J,...; None of None."""
    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--images: expected numbers as 3,17,52, got {text!r}") from None


def _seeds(text: str | None, named: Sequence[str]) -> Sequence[int]:
    """Read the seeds of runs, which names of defenses alone are found by."""
    from sparring.cli.many import seeds_of

    seeds = seeds_of(text)
    paths = [name for name in named if name != "all" and not defenses.is_known(name)]
    if seeds and paths:
        raise SettingsError(
            f"--seeds: expected names of defenses, whose runs lie in RUNS/seed-N, got {paths[0]}"
        )
    return seeds
