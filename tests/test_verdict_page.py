"""The page of a verdict and its output in a notebook: what they say and draw."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from typer.testing import CliRunner

from sparring import plots
from sparring.attacks import PGD, Square
from sparring.attacks.search import Way
from sparring.cli import app
from sparring.data import Dataset
from sparring.defenses.defense import Defense
from sparring.evaluation import account, page, strips
from sparring.evaluation.evaluate import evaluate
from sparring.evaluation.trace import POINT, Trace
from sparring.evaluation.verdict import ROW, Verdict
from sparring.runs.records import Evaluated, EvaluationWarning, ThreatRecord
from sparring.threat import Linf
from tests.conftest import Linear
from tests.test_plots import contrast

TEMPLATE = Path(page.__file__).parent / "verdict.html.jinja"
HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>{{ 7 * 7 }}"
EPS = 0.1


def points_of(*margins: float, way: int = 0, **columns: Any) -> np.ndarray:
    """Points of image 0, broken where the margin is above 0."""
    points = np.zeros(len(margins), POINT)
    points["margin"], points["loss"], points["distance"] = margins, margins, EPS
    points["way"], points["step"], points["target"] = way, np.arange(len(margins)), -1
    points["broken"], points["answer"] = points["margin"] > 0, points["margin"] <= 0
    for name, values in columns.items():
        points[name] = values
    return points


def verdict_of(rows: int = 1, **columns: Any) -> Verdict:
    """A verdict on gray images of class 1, none of which is broken unless columns say so."""
    x, y = np.full((4, 8, 8, 1), 128, np.uint8), np.ones(4, np.int32)
    about = Evaluated(
        defense="linear",
        attack="PGD(steps=4)",
        threat=ThreatRecord(norm="Linf", eps=EPS),
        dataset=Dataset("grays", x, y, x, y, ("a", "b")).info.as_json(),
        seed=0,
        draws=1,
        backend="torch",
        sparring="0",
    )
    table = np.zeros(rows, ROW)
    table["index"], table["label"], table["clean"], table["attacked"] = range(rows), 1, 1, True
    table["answer"], table["distance"], table["reason"] = 1, EPS, "label unchanged"
    for name, values in columns.items():
        table[name] = values
    originals = np.full((rows, 8, 8, 1), 128, np.uint8)
    verdict = Verdict(about, table, originals.astype(np.float32) / 255, name="pgd")
    verdict.originals, verdict.margin = originals, np.full(rows, -2.0)
    return verdict


def told_of(verdict: Verdict, points: np.ndarray, *ways: Way) -> str:
    """Why the first image of a verdict resists, with a trace of these points."""
    verdict.trace = Trace(np.array([0]), list(ways or [Way("PGD()", "PGD", "margin")]), points)
    return account.why(verdict, 0)


class Tags(HTMLParser):
    """Notes the tags of a page, and fails where one is not closed."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def traced(linear: Linear) -> Verdict:
    """Twelve images nearer and farther from the hyperplane, traced under PGD and Square."""
    signs = linear.direction
    away = np.arange(12)[:, None, None, None]
    x, y = (130 - away * signs).astype(np.uint8), np.ones(12, np.int32)
    data = Dataset("linear", x, y, x, y, ("<i>a</i>", HOSTILE))

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        PGD(steps=3, step_size=0.2, random_start=False)(defense, x, y, threat)
        return Square(queries=30)(defense, x, y, threat)

    attack.__name__ = HOSTILE
    verdict = evaluate(linear, attack, Linf(0.04), data, 12, check=False, trace=True)
    verdict.warnings.append(EvaluationWarning(name=HOSTILE, text=HOSTILE))
    verdict.reason[0] = HOSTILE
    assert verdict.trace is not None
    verdict.trace.problem = HOSTILE
    verdict.trace.ways[0] = Way(HOSTILE, HOSTILE, HOSTILE)
    return verdict


# Text stays text, and nothing is loaded


@pytest.mark.parametrize("show", [page.html, page.cell])
def test_no_text_becomes_markup_and_nothing_is_loaded(
    traced: Verdict, show: Callable[[Verdict], str]
) -> None:
    shown = show(traced)
    tags = Tags(shown)
    assert "<script" not in shown
    assert "onerror=alert(1)>" not in shown
    assert {tag for tag, _ in tags.all} & {"script", "link", "iframe", "object", "i"} <= {"i"}
    assert not re.search(r"<i>a</i>", shown)
    for tag, attributes in tags.all:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href"):
                kind = "data:image/png;base64," if tag == "img" else "#image-"
                assert (value or "").startswith(kind)
    assert "url(" not in shown
    # What was hostile is all there, as text.
    assert sum(HOSTILE in text for text in tags.text) >= 3
    assert "49" not in "".join(text for text in tags.text if "alert" in text)


def test_the_page_forbids_itself_to_load_or_run(traced: Verdict) -> None:
    [policy] = [
        attributes["content"]
        for tag, attributes in Tags(page.html(traced)).all
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_a_cell_leaks_no_style(traced: Verdict) -> None:
    shown = traced._repr_html_()
    tags = Tags(shown)
    assert shown == page.cell(traced)
    assert not {"style", "html", "body", "link"} & {tag for tag, _ in tags.all}
    assert not [
        name for _, attributes in tags.all for name in attributes if name in ("class", "id")
    ]
    # Its colors are those around it, and ones that can be seen on light and on dark paper.
    colors = set(re.findall(r"#[0-9a-f]{6}", shown))
    assert colors <= {strips.CURVE, strips.BROKEN, strips.OTHER}
    for color in (strips.CURVE, strips.BROKEN, strips.OTHER):
        for paper in ("#ffffff", "#111111", plots.DARK[plots.PAPER]):
            assert contrast(color, paper) >= 3
    text = "".join(tags.text)
    for said in ("attack success", "Warning", "Step by step", "resists"):
        assert said in text
    assert len(shown) < 200_000


def test_every_text_of_the_page_has_enough_contrast() -> None:
    style = TEMPLATE.read_text("utf-8").partition("<style>")[2].partition("</style>")[0]
    blocks = re.findall(r":root \{([^}]*)\}", style)
    light, dark = (dict(re.findall(r"--(\w+): (#\w+);", block)) for block in blocks)
    assert set(light) == set(dark)
    for scheme in (light, dark):
        colors = {name: f"#{c[1:] * 2}" if len(c) == 4 else c for name, c in scheme.items()}
        for paper in (colors["paper"], colors["tint"]):
            for text in ("ink", "soft", "link", "alarm"):
                assert contrast(colors[text], paper) >= 4.5, (text, paper)
    assert not re.findall(r"(?<![-\w])(?:color|background): #", style)


# What it says


def test_without_a_trace_the_page_says_how_to_get_one(traced: Verdict) -> None:
    assert "adds curves" not in page.html(traced)
    traced.trace = None
    shown = page.html(traced)
    assert "<code>--trace</code>, or <code>trace=True</code> in Python" in shown
    assert "<svg" not in shown
    traced.originals = None  # a verdict made by hand has none
    assert "<img" not in page.html(traced)
    assert "<img" not in page.cell(traced)


def test_rates_reasons_and_warnings_are_told() -> None:
    reasons = ["broken", "rejected", "rejected", "broken in 5 of 20 draws"]
    verdict = verdict_of(4, success=[1, 0, 0, 0.25], reason=reasons)
    shown = "".join(Tags(page.html(verdict)).text)
    assert re.search(r"attack success\s+31\.2 %\s+95 % interval", shown)
    assert "not run again under other conditions" in shown
    told = page._Shown(verdict).reasons
    assert told == [("broken", 1), ("broken in 5 of 20 draws", 1), ("rejected", 2)]
    verdict.checked = True
    assert "nothing was found that speaks against it" in page.html(verdict)
    verdict.warnings.append(EvaluationWarning(name="few-images", text="take more"))
    shown = page.html(verdict)
    assert "nothing was found that speaks against it" not in shown
    assert "take more" in shown
    assert "docs/warnings.md#few-images" in shown


def test_resisting_images_stand_nearest_to_breaking_first() -> None:
    verdict = verdict_of(5, success=[0, 0, 1, 0.4, 0])
    verdict.margin = np.array([-3, -1, 2, -9, np.nan])
    assert account.resisting(verdict) == [3, 1, 0, 4]
    shown = page._Shown(verdict)
    assert [card.index for card in shown.resisting] == [3, 1, 0, 4]
    assert [card.index for card in shown.broken] == [2]
    assert (shown.resisting_count, shown.broken_count) == (4, 1)


def test_of_many_or_large_images_some_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = verdict_of(30)
    shown = page._Shown(verdict)
    assert (len(shown.resisting), shown.resisting_count) == (24, 30)
    assert "the 24 nearest to breaking are shown" in page.html(verdict)
    monkeypatch.setattr(page, "_MOST_VALUES", 64 * 3 * 2)
    assert len(page._Shown(verdict).resisting) == 2


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"reason": "rejected", "answer": 0}, "another label, but the defense rejects it."),
        ({"reason": "too far: Linf distance above eps", "distance": 0.2}, "and 0.1 is allowed"),
        ({"reason": "broken in 7 of 20 draws", "success": 0.35}, "in 7 of 20 draws, not"),
        ({"reason": "outside [0, 1]"}, "Outside [0, 1]."),
        ({}, "The best other logit is 2 below the label's."),
        ({"distance": 0.02}, "It moved by 20 % of what is allowed."),
    ],
)  # fmt: skip
def test_why_an_image_resists_by_what_came_of_it(columns: dict[str, Any], said: str) -> None:
    verdict = verdict_of(**columns)
    assert said in account.why(verdict, 0)
    assert ("It moved by" in account.why(verdict, 0)) == (
        "distance" in columns and "reason" not in columns
    )


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (points_of(-4, 1, -1), "broken at 1 of 3 steps, first at step 1, but not"),
        (points_of(-4, -1, 1), "In the traced run it was broken, at step 2."),
        (points_of(-4, -4, -3.9), "The margin hardly moved, from -4 to -3.9 at best"),
        (
            points_of(-4, -4, -3.9, loss=[0.1, 0.5, 0.9]),
            "The loss rose and the margin hardly did, from -4 to -3.9 at best",
        ),
        (points_of(*np.linspace(-4, -1, 40)), "was still rising: more steps may break it."),
        (points_of(*[-4, *[-1] * 39]), "The margin rose from -4 to -1 at best, and no further."),
        (points_of(-4, -3, -1, -1, rejected=[0, 0, 1, 1]), "It was rejected at 2 of 4 steps."),
    ],
)  # fmt: skip
def test_why_an_image_resists_by_its_steps(points: np.ndarray, said: str) -> None:
    verdict = verdict_of()
    told = told_of(verdict, points)
    assert said in told
    assert told.startswith("The best other logit is 2 below the label's.")
    verdict.margin = np.array([np.nan])
    assert told_of(verdict, points).startswith("Its label is unchanged.")


def test_what_each_part_did_is_told() -> None:
    ways = [
        Way("APGD()", "APGD", "cross entropy"),
        Way("PGD()", "PGD", "margin", 0, 0),
        Way("PGD()", "PGD", "margin", 0, 1),
        Way("PGD()", "PGD", "margin", 1, 0),
        Way(),
    ]
    points = [
        points_of(-1, 1, image=1),
        points_of(-1, -1, -1, 1, image=2),
        points_of(-1, 1, -1, image=3),
        points_of(-1, image=4),
        points_of(-2, -1, way=1, image=3),
        points_of(-2, 1, way=2, image=3),
        points_of(-2, -1, way=1, image=4),
        points_of(-2, -1, way=2, image=4),
        points_of(-2, -1, way=3, image=4),
        points_of(-2, way=4, image=4),
    ]
    trace = Trace(np.arange(1, 5), ways, np.concatenate(points))
    told = account.parts(trace)
    assert [(part.letter, part.title, part.did) for part in told] == [
        (
            "A",
            "APGD (cross entropy)",
            "broke 2 of 4 images, at steps 1 to 3; 1 more on the way, but not at its end",
        ),
        ("B", "PGD (margin), 2 starts, 2 targets", "broke 1 of 2 images, at step 1"),
        ("C", "images that the defense was asked about", "did not break its image"),
    ]
    cut = account.stretches(trace.of(4), ways, told)
    assert [(each.letter, each.begin, each.end) for each in cut] == [
        ("A", 0, 1), ("B", 1, 3), ("B", 3, 5), ("B", 5, 7), ("C", 7, 8),
    ]  # fmt: skip
    assert [each.title for each in cut][1:4] == [
        "PGD, target 1",
        "PGD, target 2",
        "PGD, start 2, target 1",
    ]
    assert [len(group) for group in strips.groups(cut)] == [1, 3, 1]


def test_the_same_part_once_more_is_another_stretch() -> None:
    points = np.concatenate([points_of(-2, -1), points_of(-2, -1)])
    trace = Trace(np.array([0]), [Way("PGD()", "PGD", "margin")], points)
    cut = account.stretches(points, trace.ways, account.parts(trace))
    assert [(each.begin, each.end) for each in cut] == [(0, 2), (2, 4)]


# What it draws


def drawn(points: np.ndarray, *cut: strips.Stretch) -> list[tuple[str, dict[str, str | None]]]:
    stretches = list(cut) or [strips.Stretch("A", "PGD", 0, len(points))]
    return Tags(strips.strip(points, stretches, 1, ("cat", "dog"), EPS)).all


def lines_of(tags: list[tuple[str, dict[str, str | None]]]) -> list[np.ndarray]:
    return [
        np.array([pair.split(",") for pair in (each["points"] or "").split()], float)
        for tag, each in tags
        if tag == "polyline"
    ]


def test_curves_are_to_scale() -> None:
    points = points_of(-4, -2, 0.0, 4, distance=[0, 0.05, 0.1, 0.1], loss=[1, 2, 3, 5])
    tags = drawn(points)
    loss, margin, distance = lines_of(tags)
    for line in (loss, margin, distance):
        np.testing.assert_allclose(np.diff(line[:, 0]), 358 / 4, atol=0.11)  # tenths of pixels
    # From the lowest value to the highest a lane is 38 pixels; y goes down.
    np.testing.assert_allclose(loss[0, 1] - loss[:, 1], [0, 9.5, 19, 38], atol=0.11)
    np.testing.assert_allclose(margin[0, 1] - margin[:, 1], [0, 9.5, 19, 38], atol=0.11)
    np.testing.assert_allclose(distance[0, 1] - distance[:, 1], [0, 19, 38, 38], atol=0.11)
    # The dashed lines are at a margin of 0 and at eps.
    dashed = [float(each["y1"] or 0) for _, each in tags if each.get("stroke-dasharray") == "3 3"]
    np.testing.assert_allclose(dashed, [margin[2, 1], distance[2, 1]], atol=0.11)
    broken = [float(each["x1"] or 0) for _, each in tags if each.get("stroke-dasharray") == "2 2"]
    np.testing.assert_allclose(broken, [margin[3, 0]] * 3, atol=0.11)


def test_answers_are_a_bar_of_colors() -> None:
    points = points_of(-4, -2, -1, 1, answer=[1, 1, 0, 0])
    boxes = [each for tag, each in drawn(points) if tag == "rect"]
    fills = [strips.BROKEN if each["fill"] == strips.BROKEN else each["fill"] for each in boxes]
    assert fills == ["currentColor", strips.OTHER, strips.BROKEN]
    np.testing.assert_allclose(
        [float(each["width"] or 0) for each in boxes], [179, 89.5, 89.5], atol=0.2
    )
    svg = strips.strip(points, [strips.Stretch("A", "PGD", 0, 4)], 1, ("cat", "dog"), EPS)
    assert "steps 2 to 2: cat, not broken" in svg
    assert "steps 3 to 3: cat</title>" in svg
    assert 'aria-label="4 steps: margin from -4 to 1, answer cat for dog"' in svg


def test_what_is_written_into_curves_is_escaped() -> None:
    cut = [strips.Stretch("<u>", "<s>", 0, 3), strips.Stretch("<b>", "<p>", 3, 4)]
    svg = strips.strip(points_of(-4, -2, -1, 1), cut, 1, ("<em>", "<i>"), EPS)
    assert not {"u", "s", "b", "p", "em", "i"} & {tag for tag, _ in Tags(svg).all}
    for name in ("u", "s", "b", "p", "em", "i"):
        assert f"&lt;{name}&gt;" in svg


def test_the_width_of_an_attack_goes_by_the_root_of_its_steps() -> None:
    points = points_of(*[-1] * 10, loss=[0, 1] * 5)
    cut = (
        strips.Stretch("A", "x", 0, 1),
        strips.Stretch("B", "y", 1, 5),
        strips.Stretch("B", "y", 5, 10),
    )
    tags = drawn(points, *cut)
    # One step and nine: a quarter of the width and three; the second attack lies on a band.
    [band] = [each for tag, each in tags if tag == "rect" and each.get("opacity") == "0.1"]
    first, second, *_ = lines_of(tags)  # losses have a scale for each attack
    assert len(first) == 1
    assert len(second) == 9
    np.testing.assert_allclose(first[0, 0], 1 + 358 / 8, atol=0.11)
    np.testing.assert_allclose(second[0, 0], 1 + 358 / 4 + 358 * 3 / 4 / 18, atol=0.11)
    assert band is not None


def test_of_thousands_of_points_lows_and_highs_are_drawn() -> None:
    values = np.zeros(20_000)
    values[[7_003, 13_001]] = [-50, 50]
    [_, margin, _] = lines_of(drawn(points_of(*(values - 60))))
    assert len(margin) < 1_500
    assert np.ptp(margin[:, 1]) == pytest.approx(38 * 100 / 110, abs=0.2)


def test_what_is_not_known_is_not_drawn() -> None:
    points = points_of(-4, np.nan, -2, loss=np.nan)
    margin, distance = lines_of(drawn(points))
    assert (len(margin), len(distance)) == (2, 3)
    [one] = lines_of(drawn(points_of(-4, loss=np.nan, margin=np.nan)))  # one step: a point
    assert len(one) == 1


def pixels(uri: str) -> np.ndarray:
    data = b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(np.round(255 * matplotlib.image.imread(BytesIO(data), format="png")[..., :3]))


def test_pictures_hold_the_pixels() -> None:
    image = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8, 1)
    encoded = plots.png(image)
    assert encoded == plots.png(image)
    read = np.round(255 * matplotlib.image.imread(BytesIO(encoded), format="png"))
    np.testing.assert_array_equal(read[..., :1], np.round(255 * image))
    colors = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    read = np.round(255 * matplotlib.image.imread(BytesIO(plots.png(colors)), format="png"))
    np.testing.assert_array_equal(read[..., :3], colors)


@pytest.mark.parametrize(("norm", "times"), [("Linf", 5), ("L2", 10)])
def test_perturbations_are_magnified_around_gray(norm: str, times: float) -> None:
    verdict = verdict_of()
    threat = ThreatRecord(norm=norm, eps=EPS)
    verdict.about = verdict.about.model_copy(update={"threat": threat})
    verdict.adversarial = verdict.adversarial.copy()
    verdict.adversarial[0, 2, 3] += 0.05
    verdict.adversarial[0, 4, 1] -= 0.02
    shown = page._Shown(verdict)
    # eps has full contrast in Linf; in L2, where no pixel has to go as far, the largest change.
    assert shown.magnified == pytest.approx(times, rel=1e-3)
    [card] = shown.resisting
    original, moved, adversarial = (pixels(uri)[..., 0] for uri, _ in card.pictures)
    assert (original == 128).all()
    expected = np.full((8, 8), 128.0)
    expected[2, 3], expected[4, 1] = 255 * (0.5 + times * 0.05), 255 * (0.5 - times * 0.02)
    np.testing.assert_allclose(moved, expected, atol=1)  # rounded to bytes
    assert adversarial[2, 3] == np.round(128 + 255 * 0.05)
    assert f"{times:.3g} times, around gray" in page.html(verdict)


# Where it stands


def test_the_command_ends_by_naming_the_page(
    digits_baseline: Defense, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert digits_baseline.path is not None
    folder = tmp_path / "runs" / "digits" / "baseline"
    folder.mkdir(parents=True)
    for name in ("run.json", "weights.safetensors"):
        (folder / name).write_bytes((digits_baseline.path / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    command = ["attack", "baseline", "pgd", "-n", "12", "--eps", "0.05", "--no-check"]
    for more in ([], ["--trace"]):
        answer = CliRunner().invoke(app, [*command, *more])
        assert answer.exit_code == 0, answer.output
        named = "runs/digits/baseline/attacks/pgd-Linf-0.05-n=12/verdict.html"
        assert answer.stdout.splitlines()[-1] == f"Page      {named}"
        shown = (tmp_path / named).read_text(encoding="utf-8")
        assert ("PGD (cross entropy): broke" in shown) == bool(more)
        Tags(shown)
    assert "once more, to see each step" in answer.output
