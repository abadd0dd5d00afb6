"""Pages: whole, self-contained, safe, and what the page of an experiment shows."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import planted
from voxgap.experiment.comparison import Comparison
from voxgap.experiment.examples import Example
from voxgap.experiment.plan import Outcome
from voxgap.report import Section, Table, write_page, write_report
from voxgap.report.figures import fills, heat_maps, intervals, number
from voxgap.report.page import drawing, is_drawing

MEANS = {"mean": 0.70, "linear": 0.80, "masked_conv": 0.90, "complete": 0.95}
VOID = {"meta", "img", "br", "link", "input", "path", "use", "image", "rect"}


class Balanced(HTMLParser):
    """Fails where an element is closed that is not open; collects what is shown and what is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        assert tag not in ("script", "link", "iframe")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def checked(path: Path) -> str:
    """The page, after looking that it is well-formed and fetches nothing."""
    page = path.read_text()
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert all(place.startswith(("#", "data:image/png;base64,")) for place in parser.fetched)
    assert "http://" not in page
    assert "https://" not in page
    return page


def found(means: dict[str, float] = MEANS, metric: str = "accuracy", **plan: object) -> Comparison:
    made = planted.experiment(list(means), **plan)
    return Comparison.from_outcomes(made, planted.outcomes(made, means, metric=metric))


def of_classes(metric: str | None, means: dict[str, float], noise: float = 0.01) -> Comparison:
    made = planted.experiment(list(means))
    row = {"case": "a", "dice": 0.5, "dice_rest": 0.9, "dice_a<b": 0.5, "missing_rate": 0.5}
    pairs = planted.outcomes(made, means, metric="dice_1", noise=noise, between_folds=3 * noise)
    pairs = [(run, replace(o, predictions={0.5: (row,)})) for run, o in pairs]
    return Comparison.from_outcomes(made, pairs, metric=metric)


def test_a_metric_of_a_class_goes_by_the_name_of_the_class(tmp_path: Path) -> None:
    comparison = of_classes("dice_a<b", {"mean": 0.7, "linear": 0.9})
    assert comparison.summary() == of_classes("dice_1", {"mean": 0.7, "linear": 0.9}).summary()
    assert comparison.metric == "dice_1"
    assert "dice of a<b (higher is better), mean and 95 % interval" in comparison.summary()
    assert comparison.to_json()["classes"] == ["rest", "a<b"]
    write_report(comparison, tmp_path / "page.html")
    page = checked(tmp_path / "page.html")
    assert page.count("dice of a&lt;b") >= 4  # paragraph, caption, axis, head of the table
    assert "dice 1" not in page


def test_scores_that_are_the_same_in_all_folds_have_no_interval(tmp_path: Path) -> None:
    comparison = of_classes(None, {"mean": 1.0, "linear": 1.0}, noise=0.0)
    assert "0.950 (the same in all 5 folds)" in comparison.summary()
    write_report(comparison, tmp_path / "page.html")
    page = checked(tmp_path / "page.html")
    assert "the same in all " in page
    assert "0.950 to 0.950" not in page


def test_a_page_escapes_what_it_shows(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    section = Section(evil, [evil], Table([evil], [[evil]]), [(Figure(), evil)], code=evil)
    write_page(tmp_path / "page.html", evil, evil, [section])
    page = checked(tmp_path / "page.html")
    assert evil not in page
    assert "&lt;script&gt;" in page


def test_words_in_a_drawing_are_escaped_too(tmp_path: Path) -> None:
    comparison = found({"mean": 0.7, "<script>x</script>&": 0.9})
    write_report(comparison, tmp_path / "page.html")
    assert "<script>" not in checked(tmp_path / "page.html")


def test_drawings_take_the_colour_of_the_page_and_pictures_stay_pixels() -> None:
    lines, picture = Figure(), Figure()
    lines.subplots().plot([1, 2], [3, 4])
    picture.subplots().imshow(np.zeros((2, 2)))
    assert is_drawing(lines)
    assert not is_drawing(picture)
    element = drawing(lines)
    assert element.startswith("<svg")
    assert "currentColor" in element
    assert "#000000" not in element
    assert "width=" not in element.partition(">")[0]
    again = Figure()
    again.subplots().plot([1, 2], [3, 4])
    assert drawing(again) == element


def test_a_folded_section_is_there_but_closed(tmp_path: Path) -> None:
    write_page(
        tmp_path / "page.html", "t", "l", [Section("Details", ["inside"], folded=True), Section("Open")]
    )
    page = checked(tmp_path / "page.html")
    assert page.index("<summary>Details</summary>") < page.index("inside") < page.index("</details>")
    assert "<h2>Open</h2>" in page


def test_the_page_of_an_experiment(tmp_path: Path) -> None:
    comparison = found(folds=10, train_rates=(0.1, 0.5), test_rates=(0.1, 0.5), seeds=(3, 4))
    volume = np.random.default_rng(0).normal(size=(6, 5, 5, 1)).astype("float32")
    command = "voxgap compare data.npz --strategies mean,linear --rates 0.1,0.5"
    example = Example("", {"complete": volume[..., 0], "mean": volume[..., 0]})
    write_report(comparison, tmp_path / "report.html", command=command, fills=[example])
    page = checked(tmp_path / "report.html")
    text = re.sub(r"<[^>]+>", " ", page)
    assert text.index("masked_conv is better than linear") < text.index("Ranking")
    headings = re.findall(r"<(?:h2|summary)>(.*?)</", page)
    assert headings == [
        "Ranking",
        "By kind and rate of gaps",
        "What is shown under each of these 4 conditions",
        "What the fills make of the same gap",
        "Reconstruction",
        "Learning curves",
        "Cost",
        "Accuracy against time of one prediction",
        "Accuracy against time of one training",
        "Do it again",
    ]
    assert command in page
    assert "3, 4" in page
    assert page.count("<svg") == 5  # intervals, heat map, curves, twice scores against cost
    assert page.count("data:image/png") == 1
    assert "10% in training, 50% in the test" in page
    assert "By means, the Pareto front is " in page
    place = comparison.overall.places[0]
    assert f"<td>{number(place.mean)}</td><td>{number(place.low)} to {number(place.high)}</td>" in page


def test_tables_lie_beside_the_page(tmp_path: Path) -> None:
    comparison = found(folds=3)
    write_report(comparison, tmp_path / "page.html")
    with (tmp_path / "results.csv").open() as file:
        assert {row["strategy"] for row in csv.DictReader(file)} == set(MEANS)
    assert json.loads((tmp_path / "results.json").read_text())["verdict"] == comparison.verdict
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "results.csv", "results.json"]


def test_caps_that_were_hit_and_predictions_are_on_the_page_and_beside_it(tmp_path: Path) -> None:
    made = planted.experiment(list(MEANS), folds=3)
    cases = {0.5: ({"case": "a.nii", "class": "=b"},)}
    pairs = [
        (run, replace(outcome, best_epoch=4, predictions=cases))
        for run, outcome in planted.outcomes(made, MEANS)
    ]
    write_report(Comparison.from_outcomes(made, pairs), tmp_path / "page.html")
    page = checked(tmp_path / "page.html")
    assert "The best epoch was the last of 4 allowed: mean in 3 of 3 runs, linear in 3 of 3 runs" in page
    assert "predictions.csv what each network said" in page
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert len(lines) == 1 + 4 * 3
    assert "'=b" in lines[1], "no cell runs in a spreadsheet"


def test_slices_with_gaps_are_shown_beside_some_without() -> None:
    whole = np.random.default_rng(0).normal(size=(20, 4, 6)).astype("float32")
    gapped = whole.copy()
    gapped[[3, 15, 16]] = np.nan
    figure = fills({"complete": whole, "with gaps": gapped, "filled: mean": np.nan_to_num(gapped)})
    shown = [int(axes.get_title()) for axes in figure.axes[:7]]
    assert {3, 15, 16} < set(shown)
    assert shown == sorted(shown)
    assert [axes.get_ylabel() for axes in figure.axes[::7]] == ["complete", "with gaps", "filled: mean"]
    # Of a few slices all are shown, whatever is missing, and of nothing nothing breaks.
    assert len(fills({"with gaps": np.full((3, 2, 2), np.nan, np.float32)}).axes) == 3
    assert len(fills({"with gaps": np.full((30, 2, 2), np.nan, np.float32)}).axes) == 7


def test_failures_and_what_is_not_finished_are_told(tmp_path: Path) -> None:
    made = planted.experiment(list(MEANS), folds=4)
    pairs = planted.outcomes(made, MEANS)[:-4]
    pairs[0] = (pairs[0][0], Outcome(pairs[0][0].key, "failed", "out of memory: too much"))
    write_report(Comparison.from_outcomes(made, pairs), tmp_path / "page.html")
    page = checked(tmp_path / "page.html")
    assert "Unfinished: 12 of 16 runs have ended." in page
    assert "What has no score" in page
    assert "out of memory: too much" in page
    assert "without a score" in page


@pytest.mark.parametrize(
    "kind", ["nothing yet", "all failed", "one strategy", "an error, one rate", "networks"]
)
def test_pages_of_experiments_with_little_or_other_things_to_show(kind: str, tmp_path: Path) -> None:
    comparison = found({"mean": 0.7})
    if kind in ("nothing yet", "all failed"):
        made = planted.experiment(["mean", "linear"], folds=2)
        runs = made.runs() if kind == "all failed" else ()
        comparison = Comparison.from_outcomes(made, [(r, Outcome(r.key, "failed", "broken")) for r in runs])
    elif kind == "an error, one rate":
        comparison = found({"mean": 50.0, "linear": 40.0}, metric="mae")
    elif kind == "networks":
        comparison = found(models=("resnet3d", "resnet2d"))
    write_report(comparison, tmp_path / "page.html")
    page = checked(tmp_path / "page.html")
    assert ("No run has a score yet." in page) == (kind in ("nothing yet", "all failed"))
    assert ("<h2>Networks</h2>" in page) == (kind == "networks")
    assert ("lower is better" in page) == (kind != "nothing yet" and "error" in kind)


def test_intervals_are_drawn_where_they_are() -> None:
    ranking = found(folds=10).overall
    axes = intervals(ranking, "dice of tumour").axes[0]
    assert axes.get_xlabel() == "dice of tumour (higher is better)"
    lines = [line.get_xdata() for line in axes.lines]
    drawn = [tuple(map(float, x)) for x in lines if len(x) == 2]
    places = [*ranking.places, *ranking.baselines]
    assert drawn == [pytest.approx((place.low, place.high)) for place in reversed(places)]
    assert [t.get_text() for t in axes.get_yticklabels()] == [place.strategy for place in reversed(places)]


def test_a_heat_map_says_its_numbers_and_leaves_out_what_is_not_known() -> None:
    scores = np.array([[0.5, 0.625], [0.75, np.nan]])
    figure = heat_maps({"mean": scores}, (0.1, 0.5), (0.1, 0.5), "accuracy")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.500", "0.625", "0.750"]
    assert axes.yaxis_inverted()
    assert [t.get_text() for t in axes.get_xticklabels()] == ["10%", "50%"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.91234, "0.912"), (-0.5, "-0.500"), (1234.5, "1234"), (float("nan"), "–")]
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
