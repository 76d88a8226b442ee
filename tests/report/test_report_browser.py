"""The report in a real browser, opened from disk: headless Chromium, skipped where it or Playwright is missing."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_report_page import data_of, make_results, sources

from leap.report.page.build_page import build

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (pip install -e '.[dev]')")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def report(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results") / "eva_results"
    make_results(results, data_of(workspace))
    return build(sources(results, workspace), results / "report").page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # root has no sandbox
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The report's overview; in the end nothing may have been refused, gone wrong or popped up."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    opened = context.new_page()
    problems: list[str] = []
    opened.on(
        "console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None
    )
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
    opened.goto(report.as_uri())
    yield opened
    context.close()
    assert problems == []


def choose(page: Any, **selects: str) -> None:
    for name, value in selects.items():
        page.select_option(f"#{name}", value)


def expect_count(page: Any, text: str) -> None:
    """A link is followed a moment after it was clicked."""
    playwright.expect(page.locator("#count")).to_have_text(text)


def open_first(page: Any) -> None:
    page.click("#list a >> nth=0")
    page.wait_for_selector("#example h3")


def test_it_opens_from_disk_with_its_leaderboard_and_sorts_it(page: Any) -> None:
    rows = page.locator("#overview table >> nth=0").locator("tbody >> nth=0").locator("th")
    assert rows.all_inner_texts() == ["Baseline", "checkpoint-5", "checkpoint-5_swapped"]
    page.click("#overview thead button:has-text('grounded')")
    assert rows.first.inner_text() == "checkpoint-5"
    assert page.locator("#overview thead th[aria-sort=descending]").count() == 1


def test_a_part_of_a_bar_opens_its_examples(page: Any) -> None:
    page.click(".bars svg[aria-label='Diagnoses of checkpoint-5'] a[aria-label^=correct]")
    page.wait_for_selector("#examples:not([hidden])")
    expect_count(page, "6 of 12 examples")
    assert page.input_value("#kind") == "correct"
    page.go_back()
    page.wait_for_selector("#overview:not([hidden])")


def test_filters_leave_what_they_say(page: Any) -> None:
    page.click("#to-examples")
    expect_count(page, "12 examples")
    choose(page, a="checkpoint-5", b="Baseline", only="ab")
    expect_count(page, "6 of 12 examples")
    choose(page, only="ba")
    expect_count(page, "0 of 12 examples")
    choose(page, b="", only="own")
    expect_count(page, "6 of 12 examples")
    choose(page, dim="Spatial")
    expect_count(page, "1 of 12 examples")
    page.fill("#q", "no such words")
    expect_count(page, "0 of 12 examples")
    page.click("#clear")
    expect_count(page, "12 examples")


def test_an_example_shows_steps_scores_and_images(page: Any) -> None:
    page.click("#to-examples")
    choose(page, a="Baseline")
    open_first(page)
    for image in page.locator("#example .images img").all():
        image.evaluate("one => one.decode()")  # fails where it is none
    assert "wrong" in page.inner_text("#example .steps")
    assert "99" in page.inner_text("#example .words")
    page.click("#example .image >> nth=1")
    assert page.locator("#zoom").evaluate("one => one.open")
    page.keyboard.press("Escape")
    assert not page.locator("#zoom").evaluate("one => one.open")


def test_two_models_stand_side_by_side_and_the_link_holds_it(page: Any, report: Path) -> None:
    page.click("#to-examples")
    choose(page, a="checkpoint-5", b="checkpoint-5_swapped")
    open_first(page)
    assert page.locator("#example .response").count() == 2
    assert page.inner_text("#example .changes").startswith("A against B: A correct, B ")
    assert "another scene's images" in page.inner_text("#example")
    assert "Few-shot examples (1)" in page.inner_text("#example")
    shown = page.inner_text("#example")
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector("#example h3")
    assert other.inner_text("#example") == shown
    page.go_back()
    playwright.expect(page.locator("#example")).to_have_text("Choose an example.")


def test_hostile_text_is_shown_and_not_run(page: Any) -> None:
    page.click("#to-examples")
    choose(page, a="checkpoint-5", kind="unreadable")
    open_first(page)
    text = page.inner_text("#example pre")
    assert text.startswith("<script>alert(1)</script>\\u001b[31m\\u202e</pre>\\u2028'\"&")
    assert "Cut: the first 20,000 characters are shown" in page.inner_text("#example")
    assert page.locator("#example script").count() == 0


def test_nothing_from_elsewhere_is_loaded_or_run(browser: Any, report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    refused = page.evaluate(
        """async () => {
            const refused = [];
            document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
            const image = document.createElement("img");
            image.src = "http://127.0.0.1:9/x.png";
            document.body.append(image);
            while (refused.length < 2) await new Promise((done) => setTimeout(done, 20));
            return [refused.sort(), window.ran === true];
        }"""
    )
    page.close()
    assert refused == [["img-src", "script-src-elem"], False]


def test_the_skip_link_leaves_the_view(page: Any) -> None:
    page.click("#to-examples")
    page.focus(".skip")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#main")).to_be_focused()
    assert page.is_visible("#examples")


def test_the_keyboard_is_enough(page: Any) -> None:
    page.keyboard.press("/")
    page.wait_for_selector("#examples:not([hidden])")
    playwright.expect(page.locator("#q")).to_be_focused()
    page.keyboard.type("3")  # a character of the search, and no dimension
    page.keyboard.press("Escape")
    page.click("#clear")
    page.keyboard.press("4")
    playwright.expect(page.locator("#dim")).to_have_value("Spatial")
    page.keyboard.press("4")
    playwright.expect(page.locator("#dim")).to_have_value("")
    for place, key in ((0, "j"), (1, "j"), (0, "k")):
        page.keyboard.press(key)
        playwright.expect(page.locator("#list a").nth(place)).to_have_attribute("aria-current", "true")
    page.keyboard.press("?")
    assert page.locator("#keys").evaluate("one => one.open")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_dark_and_light_follow_the_system_and_the_button(browser: Any, report: Path, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme)
    page.goto(report.as_uri())

    def background() -> int:
        return page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")

    first = background()
    assert (first > 128) == (scheme == "light")
    page.click("#theme")
    assert (background() > 128) != (scheme == "light")
    page.close()


def test_a_narrow_screen_needs_no_sideways_scrolling(browser: Any, report: Path) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 700})
    for view in ("", "#view=examples&a=checkpoint-5&b=Baseline&e=Spatial/select_chemistry_tube_spatial/1"):
        page.goto(f"{report.as_uri()}{view}")
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()
