"""report.html: one whole, well-formed page that needs nothing else, whatever a run holds."""

import dataclasses
import math
import re

import pytest
from support import reports
from support.contrast import contrast
from support.html_page import Page

from dinado_jax.config.schema import Config
from dinado_jax.evaluation.report.page import page
from dinado_jax.evaluation.stage_figures import TrainFigures
from dinado_jax.evaluation.summary import Floors, MomentFigures, StrengthFigures
from dinado_jax.evaluation.token_values import TokenValues

SECTIONS = ["warnings", "figures", "rounds", "training", "calibration", "prompts", "samples", "run"]
PLOTS = [
    "Success by round",
    "KL and its floor by round",
    "Success and KL",
    "Effective sample size by round",
    "Parts of the loss by step",
    "Bellman residual by step",
    "Reliability of V(prompt)",
]


@pytest.fixture(scope="module")
def whole():
    return page(reports.records())


def ids(text, tag="section"):
    return [attributes["id"] for attributes in Page(text).of(tag)]


def test_every_section_and_figure_is_there_in_order(whole):
    read = Page(whole)
    assert ids(whole) == SECTIONS
    assert [each["aria-label"] for each in read.of("svg")] == PLOTS
    assert len(read.of("figcaption")) == len(PLOTS)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in read.of("meta")
    assert read.of("html") == [{"lang": "en"}]


def test_the_headline_and_what_to_do_come_first(whole):
    said = Page(whole).text("body")
    first = said.index("75.0% of texts satisfy the oracle, 25.0% did before; KL to the base 1.50")
    assert first < said.index("efficiency 0.20: lower train.learning_rate") < said.index("Before")


def test_nothing_is_loaded_and_nothing_runs(whole):
    read = Page(whole)
    assert "://" not in whole
    assert not read.of("script") and not read.of("link") and not read.of("img")
    ids = {each["id"] for _, each in read.found if "id" in each}
    for tag, attributes in read.found:
        assert not {"src", "srcset", "action", "data"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
        if "href" in attributes:
            assert tag == "use" and attributes["href"][1:] in ids
    assert all(target in ids for target in re.findall(r"url\(#(.*?)\)", whole))
    assert "@import" not in whole and not re.search(r"url\((?!#)", whole)


def test_no_two_elements_share_an_id(whole):
    found = [each["id"] for _, each in Page(whole).found if "id" in each]
    assert len(found) == len(set(found))


def test_the_reliability_is_there_in_numbers_too(whole):
    head, first, _, third, *_ = Page(whole).rows["calibration"]
    assert head == ["prompts", "predicted", "measured", "standard error"]
    assert first == ["2", "20.4%", "25.0%", "0.4%"]
    assert third == ["1", "23.3%", "25.0%", ""]


def test_figures_take_their_colours_from_the_page(whole):
    drawn = "".join(re.findall(r"<svg.*?</svg>", whole, re.S))
    assert "var(--ink)" in drawn and "var(--control)" in drawn
    assert not re.search(r"#[0-9a-f]{6}\b|font-family|rgb", drawn)


def declared(style):
    """The colours of a style sheet by the variables that it declares."""
    return dict(re.findall(r"--(\w+):(#[0-9a-f]{6})", style))


def test_text_stands_out_on_every_ground_in_light_and_dark(whole):
    style = whole[whole.index("<style>") : whole.index("</style>")]
    light, dark = map(declared, re.findall(r":root\{([^}]*)\}", style))
    texts = set(re.findall(r"(?<![-\w])color:var\(--(\w+)\)", style))
    grounds = set(re.findall(r"background:var\(--(\w+)\)", style))
    assert {"ink", "muted"} <= texts and {"paper", "wanted"} <= grounds
    assert set(re.findall(r"var\(--(\w+)\)", whole)) <= light.keys() == dark.keys()
    assert not re.search(r"(?<!-)(?:color|background):(?!var|inherit)", style)
    for colours in (light, dark):
        for text in texts:
            for ground in grounds:
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def test_figures_can_be_read_on_a_narrow_page(whole):
    """400 px less the page's margins."""
    for svg in re.findall(r"<svg.*?</svg>", whole, re.S):
        width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", svg)]
        assert min(sizes) * (400 - 2 * 16) / width >= 11


def test_paper_has_no_controls_and_keeps_figures_whole(whole):
    (printed,) = re.findall(r"@media print\{(.*?\})\s*\}", whole, re.S)
    assert ".filter" in printed and "display:none" in printed
    assert re.search(r"figure[^}]*\{break-inside:avoid\}", printed)
    assert "@media screen and (prefers-color-scheme:dark)" in whole  # paper is light


HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</style></table></html>",
    "{{ 7 * 7 }} {% raw %} & &amp; \x00",
    "🐕‍🦺 emoji שלום مرحبا \u202e reversed",
)


def test_hostile_texts_are_shown_as_they_are(whole):
    base, control = (
        [
            dataclasses.replace(sample, prompt=f"{text} =", text=text)
            for sample, text in zip(reports.samples(len(HOSTILE), 1, good), HOSTILE)
        ]
        for good in (0, 1)
    )
    config = dataclasses.replace(Config(), name=" ".join(HOSTILE)).as_dict()
    records = reports.records(base, control, warnings=HOSTILE, config=config)
    read = Page(page(dataclasses.replace(records, wanted_in=None)))
    assert {tag for tag, _ in read.found} <= {tag for tag, _ in Page(whole).found}
    for text in HOSTILE:
        for tag in ("h1", "li", "th", "title"):
            assert " ".join(text.split()) in read.text(tag)
    assert {"dir": "auto"} in read.of("span")


def stages(rounds):
    whole = reports.records().summary.stages
    return dataclasses.replace(whole, train=TrainFigures(5, rounds))


NO_FLOORS = Floors(math.nan, math.nan, math.nan, math.nan)
MOMENT = MomentFigures("mine:length", 12.0, 0.1, 9.0, 0.2, 11.9, 0.1)


@pytest.mark.parametrize(
    "records, sections, plots",
    [
        (
            lambda: dataclasses.replace(
                reports.records(warnings=(), stages=stages(())), training=[]
            ),
            {"warnings", "training"},
            {*PLOTS[:2], *PLOTS[3:6]},
        ),
        (
            lambda: dataclasses.replace(reports.records(), training=[{"step": 1, "loss": 2.0}]),
            {"training"},
            {PLOTS[4], PLOTS[5]},
        ),
        (lambda: reports.records(floors=NO_FLOORS), set(), set()),
        (
            lambda: reports.records(moments=(MOMENT,)),
            {"calibration"},
            {PLOTS[0], PLOTS[2], PLOTS[6]},
        ),
        (lambda: reports.records(base=reports.samples(3, 2, 0)), set(), {PLOTS[2]}),
        (lambda: reports.records(base=reports.samples(1, 1, 1)), set(), {PLOTS[2]}),
    ],
    ids=["nothing", "loss", "floors", "moments", "never", "one"],
)
def test_what_a_run_lacks_is_left_out(records, sections, plots):
    text = page(records())
    assert ids(text) == [name for name in SECTIONS if name not in sections]
    drawn = [each["aria-label"] for each in Page(text).of("svg")]
    assert drawn == [title for title in PLOTS if title not in plots]
    said = Page(text).text("body")
    assert not re.search(r"\bnan\b|\binf\b|None", said)
    if PLOTS[6] in plots:  # the labels of the samples do not say what is needed
        assert "0.55 to 0.55" not in said


STRENGTHS = (StrengthFigures(0.5, 0.5, 0.1, 0.4, 0.1), StrengthFigures(2.0, 0.9, 0.1, 3.0, 0.1))


@pytest.mark.parametrize(
    "name, value, least",
    [
        ("reject", 0.0, "0"),
        ("reject", 0.1, "0.5"),
        ("temperature", 0.7, "0.5"),
        ("top_k", 9, "0.5"),
    ],
)
def test_success_against_kl_is_a_curve_over_strengths(whole, name, value, least):
    """Strength 0 is the base unless something else changes what is drawn there."""
    config = Config().as_dict()
    config["decode"][name] = value
    drawn = page(reports.records(strengths=STRENGTHS, config=config))
    told = "the curve from little strength of the control to much"
    assert f">strengths {least} to 2<" in drawn and told in drawn
    assert ">strengths" not in whole and told not in whole


def test_two_thousand_samples_fit_into_two_megabytes():
    long = " x" * 50 + '"<&' * 100
    base, control = (
        [dataclasses.replace(s, text=s.text + long) for s in reports.samples(500, 4, good)]
        for good in (1, 3)
    )
    text = page(reports.records(base, control))
    assert 1_000_000 < len(text.encode()) < 2_000_000
    assert "Of 2000 there are" in Page(text).text("p")


def test_the_value_of_each_token_is_told_by_number_and_bar():
    records = reports.records()
    tokens = ("the", " d", "ogs", " wait ."), (0.04, 0.3, 0.812, 1.0)
    text = records.control[0].text
    assert "".join(tokens[0]) == text
    values = {("control", 0): TokenValues("control", 0, 0.07, *tokens)}
    shown = page(dataclasses.replace(records, values=values))
    read = Page(shown)
    bars = [each for each in read.of("u") if "title" in each]
    assert [each["title"] for each in bars] == ["R 0.04", "R 0.3", "R 0.3", "R 0.81", "R 1"]
    assert [each["class"] for each in bars] == ["v0", "v2", "v2", "v4", "v4"]
    legend = read.text("u")
    assert all(said in legend for said in ("below 0.05", "below 0.8", "0.8 or more"))
    assert "V 0.07" in read.text("small")
    style = shown[: shown.index("</style>")]
    thickness = [re.search(rf"\.v{n}{{border-bottom:(\d)px", style)[1] for n in range(5)]
    assert thickness == sorted(set(thickness))
    assert not Page(page(records)).of("u")


def test_intervals_stand_below_their_figures(whole):
    said = Page(whole).text("td")
    assert "25.0%25.0% to 25.0%" in said and "1.501.50 to 1.50" in said
    assert "0.550.55 to 0.55" in said
