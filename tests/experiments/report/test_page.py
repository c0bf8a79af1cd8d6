"""The HTML page: what it says, its structure, and that it is usable by everyone."""

import re
import shutil

import pytest
from msgspec.structs import replace

from apalu_jax.experiments import report, results
from apalu_jax.experiments.records import InputCounts
from apalu_jax.experiments.specs import Claim, Gate

from ..helpers import RESULTS, build_report, make_record, make_runs, tiny
from .decided import decided
from .page_tree import elements

SIZES = (390, 768, 1280, 1600)
CLAIM = Claim(text="APALU is better.", source="a table", arms=("relu",), effect=0.02)
GATE = Gate(arm="relu", figure=0.1, tolerance=0.0)


def write(built, folder):
    return report.write_html(built, folder).read_text()


@pytest.fixture(scope="module")
def page(large, tmp_path_factory):
    return write(build_report(*large), tmp_path_factory.mktemp("page"))


def test_headings_are_a_tree(page):
    levels = [int(e.tag[1]) for e in elements(page, "h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    assert {2, 3} <= {*levels}


def test_pictures_have_texts_with_their_content(page):
    pictures = elements(page, "svg", "img")
    assert len(pictures) > 20
    for picture in pictures:
        text = picture.attributes.get("aria-label") or picture.attributes.get("alt")
        assert re.search(r"\d", text), picture
        assert picture.tag == "img" or picture.attributes["role"] == "img"


def test_tables_have_captions_and_scopes(page):
    assert page.count("<table>") == len(elements(page, "caption")) > 8
    assert all(cap.text for cap in elements(page, "caption"))
    scopes = [e.attributes.get("scope") for e in elements(page, "th")]
    assert {*scopes} == {"col", "row"}
    for row in page.split("<tr>")[1:]:
        assert re.match("<th scope=|<td>", row)


def test_ids_are_unique_and_every_link_leads_somewhere(page):
    every = elements(page)
    ids = [e.attributes["id"] for e in every if "id" in e.attributes]
    assert len(ids) == len({*ids})
    assert all(re.fullmatch(r"[\w-]+", each) for each in ids)
    for e in every:
        if "aria-labelledby" in e.attributes:
            assert e.attributes["aria-labelledby"] in ids
        target = e.attributes.get("href")
        if target and not target.startswith("data:image/png;base64,"):
            assert target.startswith("#") and target[1:] in ids
    chapters = [e.attributes["href"] for e in elements(page, "a")][1:]
    assert chapters[0] == "#answer" and "#glossary" in chapters
    assert {"#term-p", "#term-mde", "#term-interval"} <= {*chapters}


def test_nothing_is_loaded_from_elsewhere(page):
    for e in elements(page):
        assert e.tag not in ("link", "iframe", "object", "embed")
        assert not {"srcset", "poster", "action"} & {*e.attributes}
        assert (e.attributes.get("src") or "data:").startswith("data:")
    assert "url(" not in page and "@import" not in page
    assert "fetch(" not in page


def test_a_page_is_small(page):
    assert 20_000 < len(page.encode()) < 400_000


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(p.name for p in RESULTS.glob("experiments/*/")))
def test_pages_of_committed_results_are_small(name, tmp_path):
    built = report.build(results.read(RESULTS / "experiments" / name))
    assert report.write_html(built, tmp_path).stat().st_size <= 400_000


def test_hostile_names_stay_text(tmp_path):
    spec, runs = decided()
    spec = replace(spec, question="<script>alert(1)</script>", units={"<b>&": {}})
    built = build_report(spec, [replace(run, unit="<b>&") for run in runs])
    text = write(built, tmp_path)
    assert "<script>alert" not in text and "<b>" not in text
    assert "&lt;b&gt;&amp;" in text


def test_the_card_answers():
    card = build_report(*decided()).page.card
    facts = dict(card.facts)
    assert "significantly better than relu" in card.answer
    assert "significantly worse than gelu" in card.answer
    assert "equivalent within the margin of ±1.00 percentage points to silu" in (
        card.answer
    )
    assert facts["Runs"].startswith("10 paired seeds; 4 activations; 40 runs")
    assert "80 % power" in facts["Could detect"]
    assert "±1.00 percentage points" in facts["Could detect"]
    assert card.warnings == [] and card.reason == ""
    spec, runs = decided(variants={"wide": {}})
    runs = [replace(run, variant="wide") for run in runs]
    facts = dict(build_report(spec, runs).page.card.facts)
    assert facts["Decided by"] == "test accuracy, variant wide"
    claimed = build_report(*decided(claim=CLAIM, gates=(GATE,))).page.card
    assert dict(claimed.facts)["Verdict on the claim"] == (
        "claimed size supported under reduced training"
    )
    assert "relu +" in claimed.reason


def test_a_smoke_run_has_no_verdict(large):
    spec, runs = decided(preset="smoke", claim=CLAIM)
    built = build_report(spec, runs)
    assert not any("Verdict" in name for name, _ in built.page.card.facts)
    assert built.page.card.reason == ""
    assert "better" not in built.page.card.answer
    (block, *_) = built.page.chapters[0].blocks
    assert "verdict" not in block.grids[0].header


def test_few_pairs_and_no_spread_give_no_p():
    def outcome(columns):
        spec = tiny(
            arms=("relu", "apalu"), ablations=(), preset="full", seeds=len(columns)
        )
        runs = make_runs({"relu": columns, "apalu": [0.5] * len(columns)})
        built = build_report(spec, runs)
        grid = built.page.chapters[0].blocks[0].grids[0]
        row = next(row for row in grid.rows if row[0].text == "relu")
        return dict(zip(grid.header, (c.text for c in row), strict=True)), built

    six, _ = outcome([0.1, 0.2, 0.1, 0.2, 0.1, 0.3])
    assert (six["p, Holm"], six["verdict"]) == ("0.031", "apalu better")
    five, built = outcome([0.1, 0.2, 0.1, 0.2, 0.3])
    assert (five["p, Holm"], five["verdict"]) == ("–", "too few pairs")
    assert "No test: it takes 6 pairs" in built.page.card.answer
    equal, built = outcome([0.1] * 7)
    assert (equal["p, Holm"], equal["verdict"]) == ("–", "no spread")
    assert "undefined" in dict(built.page.card.facts)["Could detect"]
    assert "No test" in build_report(tiny(), []).page.card.answer


def test_the_headline_tells_of_floors_dead_layers_and_lost_runs():
    spec, runs = decided(optimizer={**tiny().optimizer, "activation_floor": 1e-3})
    inside = InputCounts(low=-8, high=8, counts=[0, 9, 9, 0], below=0, above=0, nan=0)
    left = replace(inside, counts=[1000, 0, 0, 0])
    paths = {"act_0": {"a": [0.5, 0.001], "b": [0.1, 0.1]}}
    paths["act_1"] = {"a": [0.5, 0.4], "b": [0.1, 0.001]}
    runs = [
        replace(
            run,
            status="diverged" if (run.arm, run.seed) == ("relu", 3) else "ok",
            history=replace(run.history, activations=paths)
            if run.arm == "apalu"
            else run.history,
            inputs={"act_0": inside, "act_1": left} if run.arm == "apalu" else {},
        )
        for run in runs
    ]
    lost = make_record(
        spec, arm="gelu", seed=9, value=None, status="failed", error="memory"
    )
    runs = [r for r in runs if (r.arm, r.seed) != ("gelu", 9)] + [lost]
    said = build_report(spec, runs).page.card.warnings
    assert said[:2] == [
        "1 of 10 runs of relu diverged and count with the chance level.",
        "1 of 10 runs of gelu failed and are missing.",
    ]
    assert "a and b of apalu ended at the floor, 0.001, in 10 of 10 runs" in said[2]
    assert "2 of 2 layers" in said[2]
    assert said[3] == "Dead layers of apalu: act_1."
    assert said[-1] == "Failed: memory"


def test_figures_as_files(tmp_path):
    built = build_report(*decided())
    first = report.write_figures(built, tmp_path / "a")
    assert {p.name for p in first} == {
        f"{name}.{ending}" for name in built.figures for ending in ("pdf", "svg")
    }
    for path in first:
        start = {".pdf": b"%PDF", ".svg": b"<?xml"}[path.suffix]
        assert path.read_bytes().startswith(start)
    again = build_report(*decided())
    for path in report.write_figures(again, tmp_path / "b"):
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()


CAPTION_SPILL = "caption => caption.getBoundingClientRect().right - innerWidth"


@pytest.mark.browser
def test_in_a_browser(page, tmp_path):
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    path = tmp_path / "page.html"
    path.write_text(page)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for width in SIZES:
            for scheme in ("light", "dark"):
                asked, errors = [], []
                tab = browser.new_context(
                    viewport={"width": width, "height": 900}, color_scheme=scheme
                ).new_page()
                tab.on(
                    "request", lambda request, asked=asked: asked.append(request.url)
                )
                tab.on("pageerror", lambda error, errors=errors: errors.append(error))
                tab.goto(path.as_uri())
                tab.evaluate(
                    "document.querySelectorAll('details').forEach(d=>d.open=1)"
                )
                assert errors == []
                assert [u for u in asked if not u.startswith("data:")] == [
                    path.as_uri()
                ]
                spill = "document.documentElement.scrollWidth - innerWidth"
                assert tab.evaluate(spill) <= 0
                assert Axe().run(tab).response["violations"] == []
                # A caption is read whole, also beside a table that is scrolled.
                tab.add_style_tag(content="table { min-width: 200vw }")
                for caption in tab.locator("caption:not(.unseen)").all():
                    assert caption.evaluate(CAPTION_SPILL) <= 0
        path.write_text(write(build_report(*decided()), tmp_path))
        _sorts_and_explains(tab, path)
        browser.close()


def _sorts_and_explains(tab, path):
    tab.goto(path.as_uri())
    table = tab.locator("#result table").first
    button = table.locator("thead button").nth(1)
    for order, signs in (("ascending", 1), ("descending", -1)):
        button.click()
        head = table.locator("thead th").nth(1)
        assert head.get_attribute("aria-sort") == order
        cells = table.locator("tbody td:nth-child(2)").all_inner_texts()
        values = [signs * float(cell.split()[0]) for cell in cells]
        assert values == sorted(values) and len(values) > 1
    table.locator("a.term").first.focus()
    tip = tab.locator("#tip")
    assert tip.is_visible() and tip.inner_text()
    tab.keyboard.press("Escape")
    assert not tip.is_visible()
