"""The command line: thin, and the only place that prints and exits.

Which question it answers: what does `sparring VERB` do?

    program.py  exit codes, errors and signals
    config.py   values and config files in YAML
    options.py  options made of dataclasses
    display.py  bars, lines and tables
    many.py     many jobs, and what is told of those that fail

One file a verb: train.py, attack.py, judge.py, grade.py, report.py, list.py, exercise.py, hint.py,
task.py, reward.py, convert.py, doctor.py; and job.py, which a schedule calls.
"""

from sparring.cli import list as list  # noqa: A004, I001 - in the order of --help
from sparring.cli import train as train
from sparring.cli import attack as attack
from sparring.cli import judge as judge
from sparring.cli import grade as grade
from sparring.cli import convert as convert
from sparring.cli import exercise as exercise
from sparring.cli import hint as hint
from sparring.cli import task as task
from sparring.cli import reward as reward
from sparring.cli import doctor as doctor
from sparring.cli import report as report
from sparring.cli import job as job
from sparring.cli.program import app as app
from sparring.cli.program import main as main
