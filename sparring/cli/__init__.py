"""The command line: thin, and the only place that prints and exits.

Exit codes: 0 done; 1 refused or failed; 2 wrong usage; 3 training diverged; 4 disk full; 130
Ctrl-C; 141 standard output was closed; 143 SIGTERM.
"""

from __future__ import annotations

import enum
import errno
import io
import json
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from sparring.backend import choice as backend_choice
from sparring.errors import Diverged, SettingsError, SparringError, unknown_name

EXIT_FAILED, EXIT_DIVERGED, EXIT_DISK = 1, 3, 4
EXIT_INTERRUPTED, EXIT_TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
EXIT_CLOSED = 128 + 13  # SIGPIPE, which Windows does not have

_DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train adversarial-example defenses that people learn to break.",
)


class Backend(enum.StrEnum):
    """What --backend takes."""

    torch = "torch"
    tensorflow = "tensorflow"
    jax = "jax"


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def main() -> None:
    """Run the command line; the process ends with one of the codes above."""
    signal.signal(signal.SIGTERM, _raise_terminated)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A folder's name may have letters that the locale's encoding has not.
        sys.stdout.reconfigure(errors="backslashreplace")
    app()


def _raise_terminated(*_: object) -> None:
    raise Terminated


@app.callback(invoke_without_command=True)
def _sparring(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        import sparring

        print(f"sparring {sparring.__version__}")
        raise typer.Exit


@app.command("list", help="Show the defenses, one line each, and which are trained.")
def list_defenses(
    out: Annotated[Path, typer.Option(help="Folder of runs to look into.")] = Path("runs"),
) -> None:
    with _errors():
        backend_choice.choose()

        from sparring.defenses import DEFENSES
        from sparring.runs.checkpoint import Run

        rows = [("defense", "networks", "random", "detects", "trained on", "idea")]
        for name, defense in DEFENSES.items():
            runs = (Run(folder) for folder in sorted(out.glob(f"*/{name}")))
            trained = [
                run.path.parent.name
                for run in runs
                if run.exists() and run.read().get("status") == "finished"
            ]
            rows.append(
                (
                    name,
                    defense.networks,
                    "yes" if defense.stochastic else "no",
                    "yes" if defense.detects else "no",
                    ", ".join(trained) or "-",
                    defense.idea,
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print("  ".join(cells).rstrip())


_SETTINGS = "sparring.settings"
_NOT_IN_CONFIG = ("config", "defense")


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values of a YAML file the options' defaults; settings that are none are kept."""
    if path is None:
        return None
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise typer.BadParameter(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise typer.BadParameter(f"{path}: expected lines of name: value, found {values!r}")
    values = {str(name).replace("-", "_"): _number(value) for name, value in values.items()}
    options = {parameter.name for parameter in context.command.params} - {*_NOT_IN_CONFIG}
    context.default_map = {name: value for name, value in values.items() if name in options}
    context.meta[_SETTINGS] = {name: value for name, value in values.items() if name not in options}
    return path


def _number(value: Any) -> Any:
    """What YAML takes for text though it is a number, as 1e-4."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


@app.command(
    help="""Train a defense, or go on with its unfinished training.

    The run goes to OUT/<data set>/<defense>: its weights, settings, results and the metrics of
    every epoch. Run the same command again after an interruption and it goes on from the last
    completed epoch. Several defenses, data sets or seeds, and 'all', are trained as jobs of their
    own, one after the other or --jobs at a time; what is finished is skipped, and one that fails
    does not stop the others. Settings not given here are the defense's own; --config takes more of
    them (momentum, weight_decay, ema_decay, head_size, flip, optimizer, schedule, initializer, and
    the defense's own, as eps of pgdtrain).
    """
)
def train(
    context: typer.Context,
    defense: Annotated[
        list[str],
        typer.Argument(
            help="Names of defenses, as 'sparring list' shows them, or all of them: all.",
            show_default=False,
        ),
    ],
    data: Annotated[
        list[str],
        typer.Option(
            metavar="NAME|FILE.npz",
            help="digits (embedded), fashion-mnist, cifar10, or your own images as an .npz file "
            "with x_train, y_train, x_test, y_test; repeatable.",
        ),
    ] = ["digits"],  # noqa: B006 - never changed
    preset: Annotated[
        str,
        typer.Option(
            metavar="course|fast",
            help="How it learns: by the course's recipe, or by Muon in far fewer steps.",
        ),
    ] = "course",
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder with the data set's files, instead of downloading them."),
    ] = None,
    limit_train: Annotated[
        int | None, typer.Option(metavar="N", help="Use only the first N training images.")
    ] = None,
    limit_test: Annotated[
        int | None, typer.Option(metavar="N", help="Use only the first N test images.")
    ] = None,
    filters: Annotated[
        int | None, typer.Option(metavar="N", help="Width of the first convolution.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", help="How often to go through the training images.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images in one training step.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="X", help="At its highest; it falls from there.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="float32|bfloat16",
            help="Of convolutions while training; bfloat16 is faster where the processor has it.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Everything random follows from it.")] = 0,
    backend: Annotated[
        Backend | None,
        typer.Option(help="Default: KERAS_BACKEND, else the first of these that is installed."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="cpu, gpu, gpu:1, ... Default: a GPU if any.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
    eval_every: Annotated[
        int, typer.Option(metavar="N", help="Epochs between tests; 0 tests only at the end.")
    ] = 1,
    restarts: Annotated[
        int,
        typer.Option(metavar="N", help="If training diverges, try again with the next N seeds."),
    ] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Train anew where there is a run already.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Log for TensorBoard too, in the run's folder.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.yaml",
            help="Options and settings by name (epochs: 10); the command line comes first.",
            is_eager=True,
            callback=_read_config,
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="A-B,C", help="Train with each of these seeds, into OUT/seed-N."),
    ] = None,
    jobs: Annotated[
        str | None,
        typer.Option(metavar="N|auto", help="Train so many networks at a time, as processes."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS|local", help="Train on a Ray cluster, or start one here."),
    ] = None,
    network: Annotated[
        int | None,
        typer.Option(metavar="N", help="Train one network of an ensemble, counted from 1."),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but the final summary.")
    ] = False,
) -> None:
    without = " without --force" if force else ""
    with _errors(f"The same command{without} goes on from the last completed epoch."):
        chosen = backend_choice.choose(backend)
        many = seeds or jobs or cluster or defense == ["all"] or len(defense) > 1 or len(data) > 1
        settings = context.meta.get(_SETTINGS, {})
        named = {
            "filters": filters,
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "precision": precision,
        }
        options: dict[str, Any] = {
            "preset": preset,
            "data_dir": data_dir,
            "limit_train": limit_train,
            "limit_test": limit_test,
            "restarts": restarts,
            "device": device,
            "eval_every": eval_every,
            "tensorboard": tensorboard,
            **settings,
            **{name: value for name, value in named.items() if value is not None},
        }
        if many:
            if network is not None:
                raise typer.BadParameter("--network goes with a single defense, data set and seed")
            options |= {"out": out, "seed": seed, "force": force}
            _train_many(defense, data, seeds, jobs, cluster, chosen, options, quiet)
            return

        from sparring import defenses
        from sparring.cli import display
        from sparring.experiments import train as api

        own = defenses.get(defense[0]).course_settings
        for name in settings:
            if name not in own.names():
                valid = [option for option in context.params if option not in _NOT_IN_CONFIG]
                valid += [setting for setting in own.names() if setting not in valid]
                raise SettingsError(f"--config {config}: {unknown_name('option', name, valid)}")
        options |= {"data": data[0], "out": out, "seed": seed}
        with display.shown(quiet) as progress:
            if network is not None:
                api.train_network(defense[0], network - 1, progress=progress, **options)
                return
            trained = api.train(defense[0], progress=progress, force=force, **options)
        _summary(trained)


@app.command(
    help="""Attack a trained defense and judge what comes of it.

    Every adversarial image is checked independently: shape, type, range, distance, and whether the
    defense answers with another label and does not reject it. The verdict goes to a folder of the
    run: verdict.json and adversarial.safetensors; an interrupted evaluation goes on from there.
    """
)
def attack(
    defense: Annotated[str, typer.Argument(help="Name of a trained defense, or a run directory.")],
    attack: Annotated[
        str,
        typer.Argument(
            help="noise, fgsm, pgd, square, reference (the defense's reference attack), or a "
            "file.py with a function attack(defense, x, y, threat)."
        ),
    ] = "pgd",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.npz",
            help="Data set of the defense named. Default: digits, or a run directory's own.",
        ),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with the data set's files.")] = None,
    norm: Annotated[
        str, typer.Option(metavar="Linf|L2", help="Norm of the threat model.")
    ] = "Linf",
    eps: Annotated[
        str | None,
        typer.Option(metavar="X", help="Its radius, as 0.03 or 8/255. Default: the data set's."),
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", metavar="N", help="How many test images.")] = 100,
    images: Annotated[
        str | None,
        typer.Option(metavar="I,J,...", help="Indices of test images, in place of the first N."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-o", metavar="NAME=VALUE", help="Of the attack, as steps=100; repeatable."
        ),
    ] = None,
    draws: Annotated[
        int, typer.Option(metavar="N", help="How often a stochastic defense is asked.")
    ] = 20,
    batch_size: Annotated[
        int, typer.Option(metavar="N", help="Images given to the attack at a time.")
    ] = 128,
    seed: Annotated[int, typer.Option(metavar="N", help="Of a stochastic defense's draws.")] = 0,
    check: Annotated[
        bool, typer.Option(help="Look for signs that the result should be distrusted.")
    ] = True,
    time_limit: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="For the attack, per batch.")
    ] = None,
    backend: Annotated[
        Backend | None,
        typer.Option(help="Default: KERAS_BACKEND, else the first of these that is installed."),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
    out: Annotated[
        Path | None, typer.Option(help="Folder of the verdict. Default: in the run.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but the verdict.")
    ] = False,
) -> None:
    with _errors("The same command goes on with the images that are left."):
        backend_choice.choose(backend)

        from sparring.cli import display
        from sparring.evaluation.evaluate import evaluate
        from sparring.evaluation.request import EvaluationRequest

        request = EvaluationRequest(
            defense,
            attack,
            _options(option or []),
            data=data,
            data_dir=data_dir,
            norm=norm,
            eps=eps,
            n=n,
            images=_indices(images),
            draws=draws,
            batch_size=batch_size,
            seed=seed,
            check=check,
            time_limit=time_limit,
            runs=runs,
            out=out,
        )
        with display.counted(quiet) as progress:
            verdict = evaluate(request, progress=progress)
        print(verdict)
        print(f"Verdict   {verdict.file}, adversarial.safetensors and examples.svg")
        if verdict.failed:
            again = shlex.join(["sparring", *sys.argv[1:]])
            print(f"Failed    {again} --images {','.join(map(str, verdict.failed))}")


def _options(given: list[str]) -> dict[str, Any]:
    """Options of an attack, from NAME=VALUE."""
    import yaml

    options = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"--option: expected NAME=VALUE, got {text!r}")
        options[name] = yaml.safe_load(value)
    return options


def _indices(text: str | None) -> list[int] | None:
    """Indices of images, from I,J,..."""
    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--images: expected numbers as 3,17,52, got {text!r}") from None


@app.command(
    help="""Convert a trained defense's networks for use elsewhere, or the course's checkpoints.

    With --to, both sides answer 256 inputs; the largest difference of a logit is printed and kept
    beside the result, and nothing is kept when it is above 1e-4 of the largest logit. With --from
    selfstudy, PATH is a checkpoint of the course or its folder of checkpoints, and --out a folder
    of runs.
    """
)
def convert(
    path: Annotated[Path, typer.Argument(help="A run directory, or the course's checkpoints.")],
    to: Annotated[
        str | None, typer.Option(metavar="TARGET", help="torch, keras, onnx, or selfstudy.")
    ] = None,
    from_: Annotated[str | None, typer.Option("--from", metavar="SOURCE", help="selfstudy")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder to write. Default: named after TARGET in the run; runs."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="What defense a checkpoint is of.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with the data set's files, to compare on them too.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    backend: Annotated[
        Backend | None,
        typer.Option(help="Default: KERAS_BACKEND, else the first of these that is installed."),
    ] = None,
) -> None:
    with _errors():
        backend_choice.choose(backend)

        if (to is None) == (from_ is None):
            raise typer.BadParameter("expected either --to TARGET or --from selfstudy")
        if from_ is not None:
            if from_ != "selfstudy":
                raise SettingsError(unknown_name("source", from_, ["selfstudy"]))
            from sparring.conversion import selfstudy

            for line in selfstudy.convert(path, out or Path("runs"), name=name):
                print(line)
            return

        import sparring
        from sparring import data
        from sparring.conversion import convert as converting

        assert to is not None
        data_name = sparring.load(path).info.name
        known = data_name == "digits" or data_dir is not None
        dataset = data.load(data_name, data_dir) if known else None
        proof = converting.convert(path, to, out, dataset=dataset, force=force)
        for network, found in proof["networks"].items():
            print(
                f"{network}  largest difference {found['largest_difference']:.3g} of logits up to "
                f"{found['largest_logit']:.3g}, {proof['inputs']} inputs"
            )
        print(f"Written   {out or path / to}, with a README.md")


@app.command(
    help="""Write an attack to fill in, attack_NAME.py, for breaking a defense yourself.

    'sparring attack NAME attack_NAME.py' grades it.
    """
)
def exercise(
    defense: Annotated[str, typer.Argument(help="Name of the defense to break.")],
    out: Annotated[Path, typer.Option(help="Folder to write it into.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    with _errors():
        backend_choice.choose()

        from sparring.defenses import exercise as exercises

        path = exercises.write(defense, out, force)
        print(
            f"{path}\n"
            f"Train     sparring train {defense}\n"
            f"Grade     sparring attack {defense} {path}"
        )


@app.command(
    help="""Say what this machine can do: cores, memory, backends and their speed, data sets, disk.

    Each backend is tried in a process of its own, for a second after importing it, so a broken one
    is reported like any other. The exit code is 0 when at least one backend works (with --no-probe:
    is installed).
    """
)
def doctor(
    probe: Annotated[
        bool, typer.Option(help="Train on each backend for a second, and read the data sets.")
    ] = True,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder to look for the data sets' files in.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    with _errors():
        from sparring.cli import display
        from sparring.experiments import doctor as doctoring

        with display.told() as tell:
            found = doctoring.examine(data_dir, out, probe=probe, tell=tell)
        text = json.dumps(found.as_json(), indent=2) if as_json else str(found)
        encoding = sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding))
        if not found.usable:
            raise typer.Exit(EXIT_FAILED)


@app.command(
    help="""Gather the results of all runs below a folder into one page.

    report.html shows accuracies, attacks, curves and examples, by data set and defense, with means
    over seeds; it is one file that needs no network. report.md and report.json have the same
    figures.
    """
)
def report(
    runs: Annotated[Path, typer.Argument(help="Folder of runs, at any depth.")] = Path("runs"),
    out: Annotated[
        Path | None, typer.Option(help="Folder to write into. Default: that of the runs.")
    ] = None,
) -> None:
    with _errors():
        from rich.table import Table

        from sparring.cli import display
        from sparring.reports import page, tables
        from sparring.reports.gather import gather

        gathered = gather(runs)
        paths = page.write(gathered, out or runs)
        console = display.Output(markup=False, highlight=False, emoji=False)
        columns = [column for column in tables.DEFENSE_COLUMNS if column.terminal]
        for section in gathered.sections:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for column in columns:
                table.add_column(column.header, overflow="fold")
            for row in tables.Table(columns, section.groups).cells():
                table.add_row(*("\n".join([cell.text, *cell.below]) for cell in row))
            console.print(section.title, soft_wrap=True)
            console.print(table, "")
        for place, problem in gathered.damaged:
            console.print(f"Damaged   {place}: {problem}", soft_wrap=True)
        print(f"Report    {paths[0]}, {paths[1].name} and {paths[2].name}")


def _train_many(
    names: list[str],
    data: list[str],
    seeds: str | None,
    at_a_time: str | None,
    cluster: str | None,
    backend: str,
    options: dict[str, Any],
    quiet: bool,
) -> None:
    """Train many defenses as jobs, and end with a table and what failed."""
    from sparring.cli import display
    from sparring.experiments import schedule as jobs

    if at_a_time and cluster:
        raise typer.BadParameter("--jobs is for this machine, --cluster for others: give one")
    out, force = Path(options.pop("out")), options.pop("force")
    numbers = _seeds(seeds)
    if options["data_dir"] is not None:
        options["data_dir"] = str(options["data_dir"].expanduser().absolute())
    environment = {"KERAS_BACKEND": backend}
    with display.shown(quiet) as progress:
        progress.message("Looking at what there is to do.")
    asked = {"names": names, "data": data, "seeds": numbers, "out": str(out), "force": force}
    planned = jobs.plan({**asked, **options}, environment)
    options.pop("seed")
    todo = jobs.jobs_of(planned, options)
    if cluster:
        workers: jobs.Workers = jobs.Cluster(cluster, environment)
    else:
        # A device that was named is every job's; else each gets its own.
        devices = [] if options["device"] else planned["devices"]
        places = jobs.places(at_a_time or 1, devices, len(todo))
        workers = jobs.Processes([environment | place for place in places])
    if cluster or len(places) > 1:
        todo = jobs.longest_first(todo)
    with display.many(quiet) as watcher:
        jobs.run(todo, workers, watcher)
    runs = [Path(entry["path"]) for entry in planned["runs"]]
    display.Output().print(display.table_of_runs(runs, out, {job.run: job.message for job in todo}))
    failed = [job for job in todo if job.state == "failed"]
    for job in failed:
        if lines := job.last_lines():
            print(f"\n{job.title}: the end of {job.log}")
            print("".join(f"    {line}\n" for line in lines), end="")
    if failed:
        titles = ", ".join(dict.fromkeys(job.title for job in failed))
        _fail(f"{len(failed)} of {len(todo)} jobs failed: {titles}", EXIT_FAILED)


def _seeds(text: str | None) -> list[int]:
    """Seeds from 0-4,7."""
    if text is None:
        return []
    numbers: list[int] = []
    for part in text.split(","):
        if (match := re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())) is None:
            raise typer.BadParameter(f"--seeds: expected seeds as 0-4 or 0,2,5, got {text!r}")
        first, last = match.groups()
        numbers += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(numbers))


@app.command("job", hidden=True, help="Work on one request of 'sparring train --jobs'.")
def work(request: Annotated[str, typer.Argument(help="What to do, in JSON.")]) -> None:
    with _errors("The scheduler starts it again."):
        backend_choice.choose()

        from sparring.cli import display
        from sparring.experiments import train as api

        arguments = json.loads(request)
        do = arguments.pop("do")
        if do == "plan":
            names = arguments.pop("names")
            print(json.dumps(api.plan(names, arguments.pop("data"), **arguments)))
            return
        _stop_with_standard_input()
        # A job before this one may not have quite ended.
        arguments["wait"] = _SECONDS_TO_END
        with display.shown(quiet=False) as progress:
            if do == "network":
                api.train_network(progress=progress, **arguments)
            else:
                _summary(api.train(progress=progress, **arguments))


_SECONDS_TO_END = 60.0


def _stop_with_standard_input() -> None:
    """End this process as SIGTERM would when standard input closes, as it does with its owner."""

    def watch() -> None:
        # Not sys.stdin, whose lock would be held when the interpreter ends.
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _summary(trained: Any) -> None:
    """What was trained, where it is, and what to do with it."""
    results, path = trained.results, trained.path
    from sparring.evaluation.rates import duration
    from sparring.runs.checkpoint import Run

    height, width, channels = trained.info.shape
    rejected = f", {results['rejected']:.2%} rejected" if trained.detects else ""
    folder = Run(path).tensorboard_folder
    logs = f"Logs      tensorboard --logdir {folder}\n" if folder.is_dir() else ""
    print(
        f"{trained.name} on {trained.info.name}: test accuracy {results['test_accuracy']:.2%} "
        f"(EMA weights, {trained.info.test_images:,} images{rejected}), "
        f"trained in {duration(results['seconds'])}\n"
        f"Weights   {path / 'weights.safetensors'}\n"
        f"Run       {path / 'run.json'} and metrics.jsonl\n"
        f"{logs}"
        f"Next      in {_python()}:\n"
        f"              import sparring\n"
        f"              defense = sparring.load('{path}')\n"
        f"              defense.classify(images)  # uint8 or floats in [0, 1], "
        f"[B, {height}, {width}, {channels}]"
    )


def _python() -> str:
    """The running interpreter as one would type it here."""
    python = Path(sys.executable)
    return str(python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python)


@contextmanager
def _errors(going_on: str = "") -> Iterator[None]:
    """Turn errors a user can mend into a message and an exit code; signals too, with a hint."""
    try:
        yield
        sys.stdout.flush()
    except Terminated:
        _ignore_signals()
        _fail(f"Terminated. {going_on}", EXIT_TERMINATED)
    except KeyboardInterrupt:
        _ignore_signals()
        _fail(f"Interrupted. {going_on}", EXIT_INTERRUPTED)
    except Diverged as error:
        _fail(str(error), EXIT_DIVERGED)
    except BrokenPipeError:
        # The interpreter flushes what is left at its end, and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail(f"Standard output was closed. {going_on}", EXIT_CLOSED)
    except OSError as error:
        full = error.errno in _DISK_FULL
        hint = f". What was saved before is whole. Make room. {going_on}" if full else ""
        _fail(f"{error}{hint}", EXIT_DISK if full else EXIT_FAILED)
    except SparringError as error:
        _fail(str(error), EXIT_FAILED)


def _ignore_signals() -> None:
    """End with the code of the first signal, whatever comes while the process ends."""
    if signal.getsignal(signal.SIGTERM) is _raise_terminated:  # not in a program's own process
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


def _fail(message: str, code: int) -> NoReturn:
    print(f"sparring: {message}", file=sys.stderr)
    raise typer.Exit(code)
