"""Wrong words on the command line: a message of a line or two, an exit code, and no traceback."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from sparring.cli import main
from sparring.defenses.defense import Defense

HUGE = "9" * 20
DIGITS = "9" * 5000

ROWS = f"""
train baseline --filters 0 | filters: expected from 1 to 4096, got 0
train baseline --filters {DIGITS} | '--filters'
train baseline --filters 1.5 | valid integer
train baseline --learning-rate nan | learning_rate: expected a number above 0
train baseline --learning-rate 1e400 | learning_rate: expected a number above 0
train baseline --precision float16 | Did you mean 'bfloat16'?
train baseline --seed -1 | seed: expected an integer of 0 or more
train baseline --limit-train {HUGE} | expected an integer below 2^63
train baseline --limit-test -1 | limit_test: expected an integer of 1 or more
train baseline --restarts -1 | restarts: expected an integer of 0 or more
train baseline --network {HUGE} | there is no network
train baseline --jobs 0 | jobs: expected a number from 1, or auto, got '0'
train baseline --jobs x | jobs: expected a number from 1, or auto
train baseline --jobs {DIGITS} | jobs: expected a number from 1, or auto
train baseline --jobs 1 --cluster local | give one
train baseline --seeds 0-99999999999 | --seeds: expected at most 1000
train baseline --seeds 0-999,5000 | --seeds: expected at most 1000
train baseline --seeds 5-2 | --seeds: expected the smaller seed first
train baseline --seeds 1- | --seeds: expected seeds as 0-4 or 0,2,5
train baseline --seeds {DIGITS} | --seeds: expected seeds as 0-4 or 0,2,5
train baseline --seeds '' | got an empty one
train baseline --cluster '' | got an empty one
train baseline --out '' | got an empty one
train baseline --out= | got an empty one
train baseline --out file | '--out'
train baseline --out file/x | file/x/digits/baseline: Not a directory
train baseline --data digit | Did you mean 'digits'?
train baseline --data text.npz | expected an .npz file
train baseline --data cifar10 --data-dir file | '--data-dir'
train baseline --device gpu:99 | unknown device of torch 'gpu:99'
train baseline --preset fats | Did you mean 'fast'?
train baseline --backend jxa | expected torch, tensorflow or jax, got 'jxa'
train baseline --backend jax | so backend 'jax' cannot be used
train baseline --config . | expected a file, found a folder
train baseline -s =1 | --set: expected NAME=VALUE, got '=1'
train baseline -s epochs | --set: expected NAME=VALUE, got 'epochs'
train baseline -s epochs= | epochs: expected
train baseline -s epochs=010 | expected a number without 0 before it
train baseline -s epochs=yes | epochs: expected
train baseline -s epochs=2026-99-99 | epochs: expected
train baseline -s epcohs=1 | Did you mean 'epochs'?
train baseline -s filters={HUGE} | expected a smaller number
train baseline basline | Did you mean 'baseline'?
train baseline --explain --seeds 0,1 | --explain goes with a single defense
train baseline --nope 1 | No such option: --nope
attack baseline pdg | Did you mean 'pgd'?
attack baseline --norm L3 | unknown norm 'L3'. Valid: Linf, L2.
attack baseline --eps nan | eps
attack baseline --eps 1/0 | eps
attack baseline -n 0 | n: expected an integer of 1 or more
attack baseline -n {HUGE} | n: expected at most 360
attack baseline --images 1,,2 | --images: expected numbers as 3,17,52
attack baseline --draws 0 | draws: expected an integer of 1 to 1000000
attack baseline --batch-size 0 | batch_size: expected an integer of 1 or more
attack baseline --out file | '--out'
attack baseline --runs file | '--runs'
attack baseline --data digit | unknown data set 'digit'. Did you mean 'digits'?
attack baseline -o steps=2026-99-99 | steps: expected
attack baseline -o '!!int x' | --option: expected NAME=VALUE
attack baseline -o x=!!int | tags
attack baseline -o stps=3 | Did you mean 'steps'?
attack blur | sparring train blur
attack blru | Did you mean 'blur'?
report nope | no such folder of runs
report file | 'file' is a file
list --out file | 'file' is a file
exercise baseline --out file | 'file' is a file
convert nope --to torch | no such run directory
convert runs/digits/baseline --to pickle | pickle
convert runs | expected either --to TARGET or --from selfstudy
doctor --out file --no-probe | 'file' is a file
trian | No such command 'trian'
--nope | No such option: --nope
"""


@pytest.fixture(scope="module")
def folder(digits_baseline: Defense, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, a file and a data set that is none."""
    root = tmp_path_factory.mktemp("wrong")
    run = root / "runs" / "digits" / "baseline"
    run.mkdir(parents=True)
    assert digits_baseline.path is not None
    for name in ("run.json", "weights.safetensors"):
        (run / name).write_bytes((digits_baseline.path / name).read_bytes())
    for name in ("file", "text.npz"):
        (root / name).write_text("text")
    return root


@pytest.mark.parametrize("row", ROWS.strip().splitlines(), ids=lambda row: row.split(" | ")[0][:60])
def test_wrong_words_end_with_a_message(
    row: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, _, message = row.rpartition(" | ")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["sparring", *shlex.split(words)])
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main()
    output = capsys.readouterr()
    assert ended.value.code in (1, 2), output
    assert message in output.err
    assert output.out == ""
    said = re.sub(r"^Usage:.*\nTry .*\n\n", "", output.err)
    assert len(said.splitlines()) <= 2, said
    assert len(said) < 1000, said
    assert sorted(folder.rglob("*")) == before
