"""sparring train: one training, or many as jobs of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring import data as data_sets
from sparring import defenses
from sparring.backend import choice as backend_choice
from sparring.cli.options import BackendOption, assignments, completed, from_fields, taken
from sparring.cli.program import app, command_line, handled, python
from sparring.defenses.sources import InFile
from sparring.errors import SettingsError, unknown_name
from sparring.experiments.request import PlanRequest, TrainingRequest, option

if TYPE_CHECKING:  # a framework, and YAML's parser
    from sparring.cli.config import Entry
    from sparring.defenses.defense import Defense

_SETTINGS = "sparring.settings"
_NOT_IN_CONFIG = ("config", "defense", "set_", "explain")
_EXCLUDED = {
    "seed": ("seeds",),
    "jobs": ("cluster",),
    "cluster": ("jobs",),
    "network": ("jobs", "cluster"),
    "explain": ("jobs", "cluster"),
}
"""Which options of a config file an option on the command line is given in place of."""


def _typed(context: typer.Context, name: str) -> bool:
    """Whether an option was given on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values of a YAML file the options' defaults; what is no option is kept."""
    if path is None:
        return None

    from sparring.cli.config import read_file

    try:
        entries = read_file(path)
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from error
    options = {option.name: option for option in context.command.params}
    defaults: dict[str, Any] = {}
    settings: dict[str, Entry] = {}
    for entry in entries:
        name = entry.name.removeprefix("settings.")
        if name in defaults or name in settings:
            raise typer.BadParameter(f"{entry.place}: {name} is given twice")
        if entry.name in options and name not in _NOT_IN_CONFIG:
            defaults[name] = taken(entry, options[name], context)
        else:
            settings[name] = entry
    context.default_map = defaults
    context.meta[_SETTINGS] = settings
    return path


@dataclass(frozen=True)
class SettingOptions:
    """The settings that most people change; `--set` takes all."""

    filters: int | None = option(None, "Width of the first convolution.", "N")
    epochs: int | None = option(None, "How often to go through the training images.", "N")
    batch_size: int | None = option(None, "Images in one training step.", "N")
    learning_rate: float | None = option(None, "At its highest; it falls from there.", "X")
    precision: str | None = option(
        None,
        "Of convolutions while training; bfloat16 is faster where the processor has it.",
        "float32|bfloat16",
    )
    set_: list[str] | None = option(
        None,
        "Any setting of the defense, as momentum=0.8; repeatable.",
        "NAME=VALUE",
        "--set",
        "-s",
    )

    def given(self, context: typer.Context) -> dict[str, Any]:
        """List the settings that were given, by name; the command line's before a config file's."""
        named = {name: value for name, value in asdict(self).items() if name != "set_"}
        given = {name: value for name, value in named.items() if value is not None}
        others = assignments(self.set_ or [], "--set")
        twice = (name for name in sorted(given.keys() & others.keys()) if _typed(context, name))
        if name := next(twice, ""):
            option = name.replace("_", "-")
            raise typer.BadParameter(f"--{option} and --set {name}=... are one: give one")
        return {**given, **others}


@dataclass(frozen=True)
class HowOptions:
    """How `sparring train` goes about it, apart from what a training is."""

    backend: BackendOption = None
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.yaml",
            help="Options and settings by name (epochs: 10); the command line comes first.",
            is_eager=True,
            callback=_read_config,
        ),
    ] = None
    seeds: str | None = option(None, "Train with each of these seeds, into OUT/seed-N.", "A-B,C")
    jobs: str | None = option(None, "Train so many networks at a time, as processes.", "N|auto")
    cluster: str | None = option(
        None, "Train on a Ray cluster, or start one here.", "ADDRESS|local"
    )
    network: int | None = option(None, "Train one network of an ensemble, counted from 1.", "N")
    explain: bool = option(False, "Print each setting and where it comes from; train nothing.")
    quiet: bool = option(False, "Print nothing but the final summary.", "", "--quiet", "-q")

    def overruled(self, context: typer.Context) -> HowOptions:
        """Leave out what a config file says besides what the command line says instead."""
        instead = (_EXCLUDED[name] for name in _EXCLUDED if _typed(context, name))
        out = [name for name in chain.from_iterable(instead) if not _typed(context, name)]
        return replace(self, **dict.fromkeys(out))  # type: ignore[arg-type]


@app.command(
    epilog="Example: sparring train baseline blur --data fashion-mnist --preset fast --jobs auto"
)
@from_fields
def train(
    *,
    context: typer.Context,
    defense: Annotated[
        list[str],
        typer.Argument(
            help="Names of defenses, as 'sparring list' shows them, files with the class of one "
            "(mydefense.py), or all of Sparring and of installed packages: all.",
            show_default=False,
            autocompletion=completed(defenses.listed, "all"),
        ),
    ],
    data: Annotated[
        list[str],
        typer.Option(
            metavar="NAME|FILE|FOLDER",
            autocompletion=completed(*data_sets.NAMES),
            help="digits (embedded), fashion-mnist, cifar10, or your own images: a folder with "
            "train/CLASS/*.png and test/CLASS/*.png, a parquet file, or an .npz file with x_train, "
            "y_train, x_test, y_test; repeatable.",
        ),
    ] = ["digits"],  # noqa: B006 - never changed
    request: partial[TrainingRequest],
    settings: SettingOptions,
    how: HowOptions,
) -> None:
    """Train a defense, or go on with its unfinished training.

    The run goes to OUT/<data set>/<defense>: its weights, settings, results and the metrics of
    every epoch. Run the same command again after an interruption and it goes on from the last
    completed epoch. Several defenses, data sets or seeds, and 'all', are trained as jobs of their
    own, one after the other or --jobs at a time; what is finished is skipped, and one that fails
    does not stop the others. Settings not given here are the defense's own; --set and --config
    take all of them (momentum, weight_decay, ema_decay, head_size, flip, optimizer, schedule,
    initializer, and the defense's own, as eps of pgdtrain).
    """
    without = "" if not request.keywords["force"] else " without --force"
    how = how.overruled(context)
    with handled(f"The same command{without} goes on from the last completed epoch."):
        backend = backend_choice.choose(how.backend)
        in_config: dict[str, Entry] = context.meta.get(_SETTINGS, {})
        wanted = request(
            defense=defense[0],
            data=data[0],
            network=None if how.network is None else how.network - 1,
            settings={name: entry.value for name, entry in in_config.items()}
            | settings.given(context),
        )
        wanted.check_names(defense, data)
        own_process = any(value is not None for value in (how.seeds, how.jobs, how.cluster))
        if own_process or defense == ["all"] or len(defense) > 1 or len(data) > 1:
            from sparring.cli.many import seeds_of

            if how.seeds and _typed(context, "seed"):
                raise typer.BadParameter("--seeds says all seeds: give it without --seed")
            if how.network is not None:
                raise typer.BadParameter("--network goes with a single defense, data set and seed")
            plan = PlanRequest(
                defenses=defense, data=data, seeds=seeds_of(how.seeds), common=wanted
            )
            _train_many(plan, how, backend)
        else:
            if in_config:
                _check_settings(context, defense[0], in_config)
            _train_one(wanted, how)


def _train_one(request: TrainingRequest, how: HowOptions) -> None:
    """Train one defense or network here, or say what it would be trained with."""
    from sparring.cli import display
    from sparring.experiments.train import train, train_network

    if how.explain:
        from sparring.experiments.plan import explain

        display.print_rows(explain(request))
        return
    with display.shown(how.quiet) as progress:
        if request.network is not None:
            train_network(request, progress=progress)
            return
        trained = train(request, progress=progress)
    display.warn(trained.results.get("warnings", []) if how.quiet else [])
    print(summary(trained, request))


def _check_settings(context: typer.Context, defense: str, given: Mapping[str, Entry]) -> None:
    """Refuse what the config file says that is neither option nor setting, or out of range."""
    settings = defenses.get(defense).course_settings
    for name, entry in given.items():
        if name not in settings.names():
            options = [option.name for option in context.command.params if option.name]
            valid = [option for option in options if option not in _NOT_IN_CONFIG]
            valid = list(dict.fromkeys([*valid, *settings.names()]))
            raise SettingsError(f"{entry.place}: {unknown_name('option', name, valid)}")
        try:
            settings.replace(**{name: entry.value})
        except SettingsError as error:
            raise SettingsError(f"{entry.place}: {error}") from error


def _train_many(request: PlanRequest, how: HowOptions, backend: str) -> None:
    """Train many defenses as jobs, and end with a table and what failed."""
    from sparring.cli import display, many
    from sparring.experiments import jobs
    from sparring.runs.directory import Run

    places = many.Places(how.jobs, how.cluster)
    if how.explain:
        raise typer.BadParameter("--explain goes with a single defense, data set and seed")
    environment = {"KERAS_BACKEND": backend}
    with display.shown(how.quiet) as progress:
        progress.message("Looking at what there is to do.")
        plan = jobs.plan(request, environment)
        for note in plan.notes:
            progress.message(note)
    # A device that was named is every job's; else each gets its own.
    devices = [] if request.common.device else plan.devices
    done = places.run(lambda _: jobs.jobs_of(plan), devices, environment, how.quiet)
    messages = {job.folder: job.message for job in done}
    runs = [run.path for run in plan.runs]
    display.Output().print(display.table_of_runs(runs, request.common.out, messages))
    for path in runs:
        results = Run(path).read().results if Run(path).status() == "finished" else None
        display.warn(f"{path}: {text}" for text in (results and results.warnings) or ())
    many.end(done)


def summary(trained: Defense, request: TrainingRequest) -> str:
    """Say what was trained, where it is, and what to do with it, in a few lines.

    Args:
        trained: the defense that came of it.
        request: what was asked for, whose data set's files the next command needs too.
    """
    from sparring.evaluation.rates import duration
    from sparring.runs.directory import Run
    from sparring.runs.records import Results

    assert trained.path is not None
    run = Run(trained.path)
    results = run.read().results or Results()
    rejected = f", {results.rejected:.2%} rejected" if trained.detects else ""
    folder = run.tensorboard_folder
    logs = f"Logs      tensorboard --logdir {run.shown / folder.name}\n" if folder.is_dir() else ""
    data, options, code = [str(request.data)], [], trained.code()
    if trained.info.key is None:
        options = ["--data", *data, "--eps", "8/255"]
    elif request.data_dir:
        data, options = [*data, str(request.data_dir)], ["--data-dir", str(request.data_dir)]
    arguments = [*map(repr, data), *([f"resize={request.resize}"] if request.resize else [])]
    shown = [str(run.shown)]
    if code is not None:
        file = InFile.of(code)
        assert file is not None
        shown.append(str(file.shown))
        options = ["--code", shown[1], *options]
    return (
        f"{trained.name} on {trained.info.name}: {results.tested} "
        f"(EMA weights, {trained.info.test_images:,} images{rejected}), "
        f"trained in {duration(results.seconds or 0)}\n"
        f"Weights   {run.shown / run.weights_file.name}\n"
        f"Run       {run.shown / run.json_file.name} and metrics.jsonl\n"
        f"{logs}"
        f"Next      {command_line('attack', run.shown, *options)}\n"
        f"          or, in Python ({python()}):\n"
        f"              import sparring\n"
        f"              defense = sparring.load({', '.join(map(repr, shown))})\n"
        f"              data = sparring.load_data({', '.join(arguments)})\n"
        f"              print(defense.classify(data.x_test[:10]), data.y_test[:10])"
    )
