"""Tasks: the agent's part answers as the defense and tells nothing; the judge's is not cheated."""

from __future__ import annotations

import ast
import base64
import hashlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import sparring
from sparring import defenses
from sparring.cli import app
from sparring.defenses import DEFENSES, get, randomneuron, reading
from sparring.errors import DataError, RunError, SettingsError
from sparring.runs.files import read_tensors, write_tensors
from sparring.runs.records import TaskRecord
from sparring.tasks import bundle as bundle_module
from sparring.tasks import fresh, judging, manifest
from sparring.tasks.bundle import Written
from sparring.tasks.request import TaskRequest
from tests.conftest import patterns

EPS = 0.45
_expect_answers = bundle_module._expect_answers
TINY = {"filters": 5, "epochs": 4, "batch_size": 8}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz of small images, told apart by patterns."""
    (x, y), (x_test, y_test) = patterns(80), patterns(16, seed=1)
    file = tmp_path_factory.mktemp("data") / "patterns.npz"
    np.savez(file, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return file


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


Write = Callable[..., Written]


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    """Let what is trained in a moment be a task, though it may reject all; and trace few draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle_module, "_expect_answers", lambda *arguments: None)
        patch.setattr(randomneuron, "DRAWS", 2)
        yield


@pytest.fixture(scope="module")
def write(images: Path, runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Write:
    """A defense's task, written once for each name and form; trained as little as can be."""

    @cache
    def train(name: str) -> None:
        lender = get(name).borrows
        if lender is not None:
            train(lender)
        settings: dict[str, Any] = {} if lender else TINY
        sparring.train(name, str(images), out=runs, eval_every=0, settings=settings)

    @cache
    def written(name: str, form: str = "folder", solution: bool = False, n: int = 12) -> Written:
        train(name)
        out = tmp_path_factory.mktemp("tasks") / f"{name}-{form}"
        return sparring.task(
            name, out, data=str(images), runs=runs, eps=EPS, form=form, solution=solution, n=n
        )

    return written


# The agent's part

ALONE = """
import json, sys
from pathlib import Path

for name in ("sparring", "keras", "tensorflow", "jax"):
    sys.modules[name] = None  # importing it fails
import numpy as np
import torch

answers = {}
for folder in json.loads(sys.argv[1]):
    sys.path.insert(0, folder)
    from defense import load

    defense = load()
    images = torch.from_numpy(np.load(folder + "/images.npz")["x"])
    for seed in (0, 5):
        place = Path(folder).parent.name + "/" + str(seed)
        answers[place + "/probabilities"] = defense.probabilities(images, seed).detach().numpy()
        answers[place + "/logits"] = defense.logits(images, seed).detach().numpy()
        answers[place + "/scores"] = defense.scores(images, seed).detach().numpy()
    x = images[:3].clone().requires_grad_()
    logits = defense.logits(x, 5)
    if logits.requires_grad:
        answers[place + "/gradient"] = torch.autograd.grad(
            logits[:, 1].sum(), x, allow_unused=True, materialize_grads=True)[0].numpy()
    sys.path.remove(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] == "defense"]:
        del sys.modules[name]
np.savez(sys.argv[2], **answers)
"""


def python(*words: Any, folder: Path, isolated: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *(["-I"] if isolated else []), *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def alone(write: Write, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What every defense answers where nothing but PyTorch and numpy can be imported."""
    folder = tmp_path_factory.mktemp("alone")
    agents = [str(write(name).folder / "agent") for name in DEFENSES]
    ended = python("-c", ALONE, json.dumps(agents), folder / "answers.npz", folder=folder)
    assert ended.returncode == 0, ended.stderr
    return dict(np.load(folder / "answers.npz"))


@pytest.mark.parametrize("name", DEFENSES)
def test_the_plain_defense_answers_as_the_judge_s(
    write: Write, alone: dict[str, np.ndarray], name: str
) -> None:
    from sparring.randomness import Chance

    folder = write(name).folder
    defense = sparring.load(folder / "judge" / "run")
    x = np.load(folder / "agent" / "images.npz")["x"]
    for seed in (0, 5):
        found = {
            what: alone[f"{name}-folder/{seed}/{what}"] for what in ("probabilities", "scores")
        }
        np.testing.assert_allclose(found["probabilities"], defense.classify(x, seed), atol=1e-5)
        np.testing.assert_allclose(found["scores"], defense.detect(x, seed), atol=1e-5)
    own = sparring.gradient(
        lambda x: defense.logits(x, Chance(x, 5) if defense.stochastic else None)[:, 1],
        defense._as_tensor(x[:3]),
    ).numpy()
    gradient = alone.get(f"{name}-folder/5/gradient")
    if gradient is None:
        assert not own.any()
    else:
        np.testing.assert_allclose(gradient, own, atol=1e-4 * max(1.0, np.abs(own).max()))


def test_random_answers_differ_by_seed(alone: dict[str, np.ndarray]) -> None:
    for name in DEFENSES:
        first, other = (alone[f"{name}-folder/{seed}/logits"] for seed in (0, 5))
        assert (first == other).all() != get(name).stochastic, name


def _sentences(name: str) -> list[str]:
    """What nobody who attacks a defense may read: hints, and what its file begins with."""
    file = inspect.getsourcefile(get(name))
    assert file is not None
    beginning = ast.get_docstring(ast.parse(Path(file).read_text(encoding="utf-8"))) or ""
    paragraphs = beginning.split("\n\n")[1:]
    texts = [" ".join(text.split()) for text in (*paragraphs, *defenses.describe(name).hints)]
    return [part for text in texts for part in text.split(". ") if len(part) > 25]


@pytest.mark.parametrize(
    ("name", "form"),
    [*((name, "folder") for name in DEFENSES), ("baseline", "harbor"), ("injection", "harbor")],
)
def test_the_agent_s_part_gives_nothing_away(
    write: Write, images: Path, name: str, form: str
) -> None:
    folder = write(name, form).folder
    own = folder / ("agent" if form == "folder" else "environment")
    files = [path for path in own.rglob("*") if path.is_file()]
    files += [folder / "instruction.md"] if form == "harbor" else []
    defense = defenses.describe(name)
    words = [
        "BPDA",
        "EOT(",
        "Reference:",
        "reference attack",
        "published",
        "hints",
        "test_accuracy",
    ]
    words += [str(images.parent), str(Path(sparring.__file__).parent), "SHA256SUMS"]
    for file in files:
        text = " ".join(file.read_bytes().decode("latin-1").split())
        told = [part for part in (*_sentences(name), *words) if part in text]
        assert not told, f"{file}: {told}"
        if file.suffix in (".md", ".py") and defense.published_success is not None:
            assert f"{defense.published_success} %" not in text
    assert {path.name for path in own.iterdir()} == (
        {"instruction.md", "check.py", "task.json", "images.npz", "defense"}
        if form == "folder"
        else {"Dockerfile", "task"}
    )


def test_the_source_to_read_has_what_is_computed_and_no_more() -> None:
    for name in DEFENSES:
        files = reading.sources(name)
        tree = ast.parse(files[f"{name}.py"])
        assert ast.get_docstring(tree) is None
        assert not any(
            f"    {word} = " in text for word in reading.SPOILERS for text in files.values()
        )
        kind = get(name)
        assert f"class {kind.__name__}(Defense)" in files[f"{name}.py"]
    assert "augment.py" in reading.sources("transform")
    with pytest.raises(SettingsError, match="unknown defense 'bluur'"):
        reading.sources("bluur")


def test_the_instruction_says_what_is_asked(write: Write) -> None:
    text = (write("mergebinary").folder / "agent" / "instruction.md").read_text()
    for part in ("0.45", "Linf", "float32 [12, 8, 8, 1]", "submission.npz", "60 minutes",
                 "rejected", "below 0.7", "lists its 4 networks"):  # fmt: skip
        assert part in text, part
    assert "drawn at random" not in text
    assert "drawn at random" in (write("transform").folder / "agent/instruction.md").read_text()
    assert "The shared answer is" in (write("advtrain").folder / "agent/instruction.md").read_text()


# From the agent to the reward


@pytest.fixture(scope="module")
def bundle(write: Write) -> Written:
    """The baseline's task, with images for the oracle."""
    return write("baseline", solution=True)


def judged(task: Written, file: Path, out: Path) -> dict[str, float]:
    """Let the judge's command judge a file, in a process of its own."""
    ended = python(
        *("-m", "sparring", "reward", task.folder / "judge", file, "--sha256", task.sha256),
        *("--out", out, "--backend", "torch", "-q"),
        folder=out.parent,
    )
    assert ended.returncode == 0, ended.stderr
    numbers = json.loads((out / "reward.json").read_text())
    assert all(isinstance(value, int | float) for value in numbers.values())  # as Harbor wants them
    assert f"reward           {numbers['reward']:.4f}" in ended.stdout
    return dict(numbers)


def test_from_the_bundle_to_the_reward(bundle: Written, tmp_path: Path) -> None:
    agent = tmp_path / "agent"
    shutil.copytree(bundle.folder / "agent", agent)
    solution = bundle.folder / "solution" / "submission.npz"
    checked = python("check.py", solution, folder=agent)
    assert checked.returncode == 0, checked.stderr
    numbers = judged(bundle, solution, tmp_path / "verdict")
    assert numbers == json.loads((bundle.folder / "solution" / "reward.json").read_text())
    assert bundle.solution is not None
    assert 0.5 < numbers["reward"] == pytest.approx(bundle.solution.value, abs=1e-6)
    assert f"estimate of the reward: {numbers['reward']:.4f}" in checked.stdout
    assert "12 of 12 images keep to the rules" in checked.stdout
    assert numbers["valid"] == numbers["counted"] <= numbers["images"] == 12
    assert (tmp_path / "verdict" / "verdict" / "verdict.json").is_file()


def test_images_as_they_are_and_cheats_are_worth_nothing(bundle: Written, tmp_path: Path) -> None:
    x = np.load(bundle.folder / "agent" / "images.npz")["x"]
    solution = np.load(bundle.folder / "solution" / "submission.npz")["adversarial"]
    cheats = {
        "clean": x,
        "far": np.clip(x + np.sign(0.5 - x) * (EPS + 0.01), 0, 1).astype(np.float32),
        "outside": np.where(x > 0.5, x + EPS, x - EPS).astype(np.float32),
        "nan": np.full_like(x, np.nan),
        "misordered": np.roll(solution, 1, axis=0),
    }
    for name, adversarial in cheats.items():
        np.savez(tmp_path / f"{name}.npz", adversarial=adversarial)
    found = {
        name: judging.reward(bundle.folder / "judge", tmp_path / f"{name}.npz").as_json()
        for name in cheats
    }
    assert {name: numbers["reward"] for name, numbers in found.items()} == dict.fromkeys(cheats, 0)
    assert found["clean"]["valid"] == found["clean"]["counted"]
    assert found["nan"]["valid"] == 0
    defense = sparring.load(bundle.folder / "judge" / "run")
    y = np.load(bundle.folder / "agent" / "images.npz")["y"]
    accuracy = (defense.classify(x).argmax(axis=1) == y).mean()
    assert found["clean"]["clean_accuracy"] == pytest.approx(accuracy, abs=1e-5)
    assert found["clean"]["robust_accuracy"] == pytest.approx(accuracy, abs=1e-5)
    # One of the rules broken in one image costs that image alone.
    one = solution.copy()
    broken = judging.reward(bundle.folder / "judge", bundle.folder / "solution/submission.npz")
    assert broken.verdict is not None
    place = int(np.flatnonzero(broken.verdict.success == 1)[0])
    one[place] = np.nan
    np.savez(tmp_path / "one.npz", adversarial=one)
    less = judging.reward(bundle.folder / "judge", tmp_path / "one.npz").as_json()
    whole = broken.as_json()
    assert less["reward"] == pytest.approx(whole["reward"] - 1 / whole["counted"], abs=1e-5)
    assert less["valid"] == whole["valid"] - 1


def test_wrong_images_do_not_count(write: Write, tmp_path: Path) -> None:
    task = write("baseline", solution=True)
    judge = tmp_path / "judge"
    shutil.copytree(task.folder / "judge", judge)
    arrays, about, _ = read_tensors(judge / "images.safetensors")
    defense = sparring.load(judge / "run")
    labels = defense.classify(arrays["x"]).argmax(axis=1).astype(np.int32)
    arrays["y"] = labels.copy()
    arrays["y"][:3] = (labels[:3] + 1) % 4  # as good as misclassified
    write_tensors(judge / "images.safetensors", arrays, about)
    manifest.write(judge)
    numbers = judging.reward(judge, task.folder / "solution" / "submission.npz").as_json()
    assert numbers["counted"] == 9
    np.savez(tmp_path / "clean.npz", adversarial=arrays["x"].astype(np.float32) / 255)
    clean = judging.reward(judge, tmp_path / "clean.npz").as_json()
    assert (clean["reward"], clean["clean_accuracy"]) == (0, 0.75)


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (None, "No such file"),
        (b"", "expected"),
        (b"\x80\x04pickle.", "expected"),
        (b"PK\x03\x04" + b"\0" * 60, "expected"),
    ],
)
def test_a_file_that_cannot_be_read_is_worth_nothing(
    bundle: Written, tmp_path: Path, contents: bytes | None, said: str
) -> None:
    file = tmp_path / "submission.npz"
    if contents is not None:
        file.write_bytes(contents)
    found = judging.reward(bundle.folder / "judge", file, out=tmp_path / "out")
    assert found.value == 0
    assert said in found.problem
    assert json.loads((tmp_path / "out" / "reward.json").read_text()) == {"reward": 0, "images": 12}


def test_check_names_what_breaks_a_rule(bundle: Written, tmp_path: Path) -> None:
    agent = bundle.folder / "agent"
    x = np.load(agent / "images.npz")["x"]
    x_adv = x.copy()
    x_adv[0, 0, 0] = np.nan
    x_adv[1, 0, 0] = 1.5
    x_adv[2] = np.where(x[2] > 0.5, x[2] - EPS - 0.01, x[2] + EPS + 0.01)
    np.savez(tmp_path / "a.npz", adversarial=x_adv)
    told = python(agent / "check.py", tmp_path / "a.npz", folder=tmp_path).stdout
    assert "1 images not finite: 0\n" in told
    assert "1 images outside [0, 1]: 1\n" in told
    assert "1 images too far: 2\n" in told
    assert "9 of 12 images keep to the rules" in told
    np.savez(tmp_path / "b.npz", adversarial=x[:4])
    wrong = python(agent / "check.py", tmp_path / "b.npz", folder=tmp_path)
    assert wrong.returncode == 1
    assert "found float32 [4, 8, 8, 1]" in wrong.stdout


def test_a_judge_that_was_changed_is_refused(bundle: Written, tmp_path: Path) -> None:
    file = bundle.folder / "solution" / "submission.npz"

    def changed(change: Callable[[Path], object]) -> Path:
        judge = tmp_path / "judge"
        shutil.rmtree(judge, ignore_errors=True)
        shutil.copytree(bundle.folder / "judge", judge)
        change(judge)
        return judge

    def flipped(judge: Path) -> None:
        record = json.loads((judge / "task.json").read_text())
        record["threat"]["eps"] = 0.9
        (judge / "task.json").write_text(json.dumps(record))

    with pytest.raises(RunError, match=r"task\.json: expected SHA-256"):
        judging.reward(changed(flipped), file, sha256=bundle.sha256)
    with pytest.raises(RunError, match=r"run\.json: missing of the judge's part"):
        judging.reward(changed(lambda judge: (judge / "run/run.json").unlink()), file)

    def with_list(judge: Path) -> None:
        flipped(judge)
        manifest.write(judge)

    judge = changed(with_list)
    assert judging.reward(judge, file).images == 12  # the list alone is believed
    with pytest.raises(RunError, match=rf"SHA256SUMS: expected SHA-256 {bundle.sha256}"):
        judging.reward(judge, file, sha256=bundle.sha256)

    def outside(judge: Path) -> None:
        list_file = judge / manifest.FILE
        list_file.write_text(list_file.read_text() + f"{'0' * 64}  ../../secret\n")

    with pytest.raises(RunError, match="expected names of files in"):
        judging.reward(changed(outside), file)

    def older(judge: Path) -> None:
        record = TaskRecord.read(judge / "task.json").model_copy(update={"sparring": "0.0.9"})
        (judge / "task.json").write_text(record.model_dump_json())
        manifest.write(judge)

    with pytest.raises(SettingsError, match=r"judged by Sparring 0\.0\.9"):
        judging.reward(changed(older), file)
    with pytest.raises(RunError, match="expected the judge's part of a task"):
        judging.reward(tmp_path, file)


# Harbor, and the wheel


def test_a_task_of_harbor(write: Write) -> None:
    task = write("baseline", "harbor", True)
    folder = task.folder
    about = tomllib.loads((folder / "task.toml").read_text())
    assert about["artifacts"] == ["/app/submission.npz"]
    assert about["verifier"]["environment_mode"] == "separate"
    assert about["verifier"]["environment"]["network_mode"] == "no-network"
    assert about["agent"]["timeout_sec"] == 3600
    for part in ("environment", "tests"):
        for line in (folder / part / "Dockerfile").read_text().splitlines():
            if line.startswith("COPY"):
                assert (folder / part / line.split()[1]).exists(), line
    wheel = f"judge/sparring-{sparring.__version__}-py3-none-any.whl"
    assert (folder / "tests" / wheel).is_file()
    assert f"'/{wheel}[torch]'" in (folder / "tests" / "Dockerfile").read_text()
    script = (folder / "tests" / "test.sh").read_text()
    assert f"--sha256 {task.sha256}" in script
    assert os.access(folder / "tests" / "test.sh", os.X_OK)
    assert os.access(folder / "solution" / "solve.sh", os.X_OK)
    manifest.check(folder / "tests" / "judge", task.sha256)
    shared = subprocess.run(["bash", folder / "tests/test.sh"], capture_output=True, text=True)
    assert shared.returncode == 1  # in a container that is not the judge's
    assert "expected the judge's container" in shared.stderr


def test_the_judge_s_command_of_harbor_is_one(write: Write, tmp_path: Path) -> None:
    task = write("baseline", "harbor", True)
    script = (task.folder / "tests" / "test.sh").read_text()
    _, command = script.replace("\\\n", "").split("exec ")
    places = {
        "/usr/local/bin/python": sys.executable,
        "/judge": str(task.folder / "tests" / "judge"),
        "/app": str(task.folder / "solution"),
        "/logs/verifier": str(tmp_path),
    }
    words = command.split()
    for place, here in places.items():
        words = [word.replace(place, here, 1) if word.startswith(place) else word for word in words]
    subprocess.run(words, check=True, capture_output=True)
    assert task.solution is not None
    reward = json.loads((tmp_path / "reward.json").read_text())["reward"]
    assert reward == pytest.approx(task.solution.value, abs=1e-6)


def test_the_wheel_is_one_and_runs(bundle: Written, tmp_path: Path) -> None:
    [file] = (bundle.folder / "judge").glob("*.whl")
    with zipfile.ZipFile(file) as wheel:
        wheel.extractall(tmp_path)
        info = f"sparring-{sparring.__version__}.dist-info"
        record = wheel.read(f"{info}/RECORD").decode().splitlines()
        told = {line.split(",")[0]: line.split(",")[1:] for line in record}
        assert {*told} == {*wheel.namelist()}
        for name, (digest, size) in told.items():
            if name != f"{info}/RECORD":
                data = wheel.read(name)
                own = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
                assert (digest, int(size)) == (f"sha256={own}", len(data))
        assert f"Version: {sparring.__version__}" in wheel.read(f"{info}/METADATA").decode()
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import sparring; "
        f"assert sparring.__file__.startswith({str(tmp_path)!r}); "
        "from sparring.tasks.judging import reward; print(reward(*sys.argv[1:]).value)"
    )
    place = bundle.folder / "solution" / "submission.npz"
    ended = python("-c", program, bundle.folder / "judge", place, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert bundle.solution is not None
    assert float(ended.stdout) == bundle.solution.value


# Fresh instances


def request(images: Path, **changes: Any) -> TaskRequest:
    values = {"defense": "baseline", "out": Path("unused"), "data": str(images), "eps": EPS}
    return TaskRequest(**{**values, "fresh": 3, "settings": {"epochs": 1}, **changes})


def test_what_is_drawn_follows_from_the_seed(images: Path) -> None:
    asked = request(images, settings={"filters": 16})
    dataset = fresh.data_of(asked)
    drawn = [fresh.drawn(request(images, fresh=seed), dataset) for seed in range(30)]
    assert fresh.drawn(request(images, fresh=3), dataset) == drawn[3]
    usual = get("baseline").settings_for(dataset, "fast", {}).settings.filters
    widths = [one.record.filters for one in drawn]
    assert usual * 0.74 < min(widths) < usual < max(widths) < usual * 1.51
    radii = [one.threat.eps for one in drawn]
    assert EPS * 0.79 < min(radii) < EPS < max(radii) < EPS * 1.26
    assert len({one.record.training_seed for one in drawn}) == 30
    assert fresh.drawn(asked, dataset).record.filters == 16  # what is given stays
    assert fresh.drawn(asked, dataset).threat == drawn[3].threat


def test_a_fresh_instance_is_made_again_by_its_seed(images: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": str(images), "eps": EPS, "solution": False, "n": 8}
    options |= {"settings": {"epochs": 2, "filters": 5}}
    hashes = []
    for place, seed in (("a", 3), ("b", 3), ("c", 4)):
        sparring.task("baseline", tmp_path / place, fresh=seed, **options)
        record = TaskRecord.read(tmp_path / place / "judge" / "task.json")
        hashes.append((record.weights_sha256, record.threat.eps))
        assert record.fresh is not None
        assert record.fresh.seed == seed
        agent = (tmp_path / place / "agent" / "instruction.md").read_text()
        assert f"**{record.threat.eps:.6g}**" in agent
    assert hashes[0] == hashes[1]
    assert hashes[0][0] != hashes[2][0]
    assert hashes[0][1] != hashes[2][1]


def test_a_defense_that_borrows_is_trained_with_its_lender(images: Path, tmp_path: Path) -> None:
    asked = request(images, defense="randomneuron", settings={"epochs": 1, "filters": 5})
    dataset = fresh.data_of(asked)
    defense = fresh.trained(asked, fresh.drawn(asked, dataset), dataset, tmp_path, None)
    assert defense.name == "randomneuron"
    assert defense.settings.filters == 5


# Data of one's own, and wrong use


def test_a_folder_of_images_by_the_command_line(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for part, count in (("train", 40), ("test", 8)):
        for number, (pixels, label) in enumerate(zip(*patterns(count, 3), strict=True)):
            place = tmp_path / "data" / part / "abcd"[label]
            place.mkdir(parents=True, exist_ok=True)
            image.fromarray(pixels).save(place / f"{number}.png")
    data, out = str(tmp_path / "data"), str(tmp_path / "task")
    words = ["task", "baseline", "-o", out, "--data", data, "--fresh", "1", "--eps", "0.3"]
    words += ["-n", "8", "-s", "epochs=4", "-s", "filters=5", "-s", "batch_size=8", "-q"]
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 0, ended.output
    assert "Solution  worth" in ended.output
    assert "classes: a, b, c, d." in (tmp_path / "task" / "agent" / "instruction.md").read_text()
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 1
    assert "expected a new or an empty folder" in again.output
    shutil.rmtree(tmp_path / "data")  # the judge has its own images
    found = judging.reward(tmp_path / "task" / "judge", tmp_path / "task/solution/submission.npz")
    assert f"worth {found.value:.4f}" in ended.output


def test_wrong_use(write: Write, images: Path, runs: Path, tmp_path: Path) -> None:
    write("baseline", solution=True)  # which trains it

    def asked(**changes: Any) -> None:
        values = {"data": str(images), "runs": runs, "eps": EPS}
        sparring.task("baseline", tmp_path / "out", **{**values, **changes})

    for changes, message in (
        ({"form": "docker"}, "unknown format 'docker'"),
        ({"n": 0}, "n: expected an integer of 1 or more"),
        ({"minutes": 10**6}, "minutes: expected at most"),
        ({"fresh": -1}, "fresh: expected an integer of 0"),
        ({"preset": "slow"}, "unknown preset 'slow'"),
        ({"settings": {"epochs": 1}}, "expected it with a fresh instance"),
        ({"eps": None}, "no usual eps"),
        ({"steps": 3}, "unknown option of a task 'steps'"),
        ({"fresh": 1, "settings": {"epoch": 1}}, "unknown setting 'epoch'"),
    ):
        with pytest.raises(SettingsError, match=message):
            asked(**changes)
    with pytest.raises(SettingsError, match="out: expected a folder"):
        sparring.task("baseline")
    with pytest.raises(SettingsError, match="unknown defense 'bluur'"):
        sparring.task("bluur", tmp_path / "out", fresh=1)
    with pytest.raises(RunError, match="no such run directory"):
        sparring.task("blur", tmp_path / "out", runs=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_defense_that_answers_nothing_rightly_is_no_task(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get("baseline"), "threshold", -1.0)  # rejects all
    monkeypatch.setattr(bundle_module, "_expect_answers", _expect_answers)
    with pytest.raises(DataError, match="answers none of the first 4 test images rightly"):
        sparring.task(
            *("baseline", tmp_path / "out"), data=str(images), eps=EPS, fresh=1, n=4,
            settings={"epochs": 1, "filters": 5},
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
