"""Pages in a browser: decoding as in JAX, dragging, sorting and filtering, without any requests.

The page of a run decodes, or shows precomputed points, and reacts to the mouse. The page of several
runs sorts and filters.
`make test-browser` runs these tests, if Debian's chromium is installed.
"""

import csv
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pages import page_without_decoder
from playwright.sync_api import Browser, Page, sync_playwright

import aevb
from aevb import runs
from aevb.config import default_config, validate, with_values
from aevb.reports import comparison
from aevb.storage.metrics_log import read_with_digest, write_with_digest

pytestmark = pytest.mark.browser

SIZES = {"desk": (1200, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser") / "run"
    values = {"train.num_examples": 20_000}
    runs.run(validate(with_values(default_config(), values)), folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "there is no chromium; Debian's package has it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the page of runs with three numbers of latents, of which one has two runs."""
    folder = tmp_path_factory.mktemp("browser") / "several"
    for num_latents, seed in ((2, 0), (5, 0), (10, 0), (10, 1)):
        values = {"train.num_examples": 3000, "model.num_latents": num_latents, "seed": seed}
        config = validate(with_values(default_config(), values))
        runs.run(config, folder / f"{num_latents},{seed}")
    return comparison.write(comparison.compare([folder]), folder / comparison.COMPARISON)[0]


@pytest.fixture(params=SIZES)
def page(request: pytest.FixtureRequest, browser: Browser, folder: Path) -> Iterator[Page]:
    """Yields the page of the run."""
    with opened(browser, request.param, folder / "explorer.html") as page:
        yield page


@pytest.fixture(params=SIZES)
def precomputed(request: pytest.FixtureRequest, browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """Yields the page of a model with five latents that pages cannot decode."""
    _, _, text = page_without_decoder(5)
    (tmp_path / "explorer.html").write_text(text)
    with opened(browser, request.param, tmp_path / "explorer.html") as page:
        yield page


@pytest.fixture(params=SIZES)
def beside(request: pytest.FixtureRequest, browser: Browser, several: Path) -> Iterator[Page]:
    """Yields the page of several runs."""
    with opened(browser, request.param, several) as page:
        yield page


@contextmanager
def opened(browser: Browser, size: str, file: Path) -> Iterator[Page]:
    """Opens a page without a network, and checks that it makes no request and has no error."""
    width, height = SIZES[size]
    scheme: Any = "dark" if size == "phone" else "light"
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.goto(file.as_uri())
    yield page
    assert [url for url in asked if not url.startswith("data:")] == [page.url]
    assert errors == []
    context.close()


def shown(page: Page) -> np.ndarray:
    """Returns the grey levels 0..255 of the picture."""
    script = """() => {
        const picture = document.getElementById("picture");
        const { data } = picture.getContext("2d").getImageData(0, 0, picture.width, picture.height);
        return Array.from(data).filter((_, i) => i % 4 === 0);
    }"""
    return np.array(page.evaluate(script))


def test_the_explorer_page_decodes_as_jax_does(page: Page, folder: Path):
    run = aevb.load_run(folder)
    z = np.asarray(2.0 * jax.random.normal(jax.random.key(0), (100, 2)))
    found = page.evaluate("zs => zs.map((z) => Array.from(decode(z)))", z.tolist())
    np.testing.assert_allclose(found, jax.vmap(run.model.decode)(jnp.asarray(z)), atol=1e-4)
    page.evaluate("z => move(z)", z[0].tolist())
    expected = 255 * np.asarray(run.model.decode(jnp.asarray(z[0])))
    np.testing.assert_allclose(shown(page), expected, atol=0.6)


def test_a_drag_moves_the_point_and_its_picture(page: Page, folder: Path):
    run = aevb.load_run(folder)
    box = page.locator("#plane").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    for share in (0.6, 0.7, 0.8):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + 0.25 * box["height"])
    page.mouse.up()
    page.mouse.move(box["x"], box["y"])  # the drag has ended, so this has no effect
    z = jnp.asarray(page.evaluate("state.z"))
    expected = jax.scipy.special.ndtri(np.array([0.8, 0.75]))
    np.testing.assert_allclose(z, expected, atol=0.02)
    np.testing.assert_allclose(shown(page), 255 * np.asarray(run.model.decode(z)), atol=0.6)


def test_arrow_keys_move_the_point(page: Page):
    page.evaluate("move([0.2, -0.1])")  # away from the edges, where a page may open
    page.locator("#plane").focus()
    before = page.evaluate("state.z.map(cdf)")
    for key in ("ArrowRight", "Shift+ArrowUp", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    after = page.evaluate("state.z.map(cdf)")
    np.testing.assert_allclose(np.subtract(after, before), [-0.01, 0.1], atol=1e-6)
    assert page.locator("#z").inner_text() == page.evaluate(
        'state.z.map((z) => z.toFixed(2)).join(", ")'
    )


def test_sliders_move_the_point_along_a_latent_and_between_two_datapoints(page: Page):
    slider = page.get_by_role("slider").first
    slider.fill("0.9")
    assert page.evaluate("Math.max(...state.z)") == pytest.approx(1.2816, abs=1e-3)
    page.get_by_role("button", name="test datapoint 0", exact=True).click()
    start = page.evaluate("state.z")
    page.locator("#strip button").nth(50).click()
    end = page.evaluate("state.z")
    page.locator("#between").fill("0.25")
    found = page.evaluate("state.z")
    np.testing.assert_allclose(found, 0.75 * np.array(start) + 0.25 * np.array(end), atol=1e-6)


def test_the_explorer_page_fits_its_screen_and_every_control_has_an_accessible_name(page: Page):
    check_size_and_names(page)


def test_an_explorer_page_without_a_decoder_states_it_and_shows_precomputed_points(
    precomputed: Page,
):
    note = precomputed.locator("#precomputed")
    assert note.is_visible()
    assert "no JavaScript for JAX's operation erf" in note.inner_text()
    assert precomputed.get_by_role("slider").count() == 4  # three latents, and between datapoints
    assert not precomputed.locator("#random").is_visible()
    box = precomputed.locator("#plane").bounding_box()
    assert box is not None
    decoded = []
    for share in (0.2, 0.21, 0.7):
        precomputed.mouse.click(box["x"] + share * box["width"], box["y"] + share * box["height"])
        decoded.append(255 * np.array(precomputed.evaluate("decode(state.z)")))
        at = ", ".join(f"{value:.2f}" for value in precomputed.evaluate("at(state.z)"))
        assert precomputed.locator("#z").inner_text() == at
    np.testing.assert_array_equal(decoded[0], decoded[1])
    assert np.any(decoded[0] != decoded[2])
    np.testing.assert_allclose(shown(precomputed), decoded[2], atol=0.6)
    precomputed.locator("#strip button").nth(50).click()
    assert precomputed.evaluate("at(state.z)") == precomputed.evaluate("state.z")
    check_size_and_names(precomputed)


def check_size_and_names(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    script = """() => [...document.querySelectorAll("button, input, select, canvas[role]")]
        .filter((one) => !one.getAttribute("aria-label") && !one.textContent.trim()
                && !(one.labels && one.labels.length)).length"""
    assert page.evaluate(script) == 0


def column_of(page: Page, number: int) -> list[str]:
    """Returns the texts of a column of the table; the first column is a color swatch."""
    return page.locator(f"#table tbody td:nth-child({number + 1})").all_inner_texts()


def bounds_of(page: Page) -> list[str]:
    """Returns the texts of the column of test bounds."""
    heads = page.locator("#table thead th").all_inner_texts()  # the color swatch has none
    return column_of(page, 1 + heads.index("test bound (nats)"))


def test_the_comparison_table_sorts_by_any_column(beside: Page):
    assert column_of(beside, 1) == ["2", "5", "10"]
    latents = beside.get_by_role("button", name="num_latents")
    latents.click()
    assert column_of(beside, 1) == ["2", "5", "10"]
    latents.click()
    assert column_of(beside, 1) == ["10", "5", "2"]
    bound = beside.get_by_role("button", name="test bound (nats)")
    for key, order in (("Enter", "descending"), ("Space", "ascending")):
        bound.press(key)
        found = [float(text.partition(" ")[0]) for text in bounds_of(beside)]
        assert found == sorted(found, reverse=order == "descending")
        head = beside.locator("#table th", has=bound)
        assert head.get_attribute("aria-sort") == order


def test_a_filter_applies_to_the_comparison_table_and_its_curves(beside: Page):
    filters = beside.get_by_role("combobox", name="num_latents")
    for choice, curves in (("10", 2), ("5", 1), ("all", 4)):
        filters.select_option(choice)
        rows = ["2", "5", "10"] if choice == "all" else [choice]
        assert column_of(beside, 1) == rows
        assert beside.locator("#curves polyline").count() == curves
        assert beside.locator("#shown img").count() == len(rows)
        assert beside.locator("#settings tr.changed td").all_inner_texts() == rows
    assert beside.locator("#count").inner_text() == "3 rows"


def test_numbers_of_the_comparison_page_are_those_of_its_csv_file(beside: Page, several: Path):
    with several.with_suffix(".csv").open() as file:
        lines = list(csv.DictReader(file))
    for line, text in zip(lines, bounds_of(beside), strict=True):
        mean, _, error = text.partition(" ± ")
        assert float(mean) == pytest.approx(float(line["test_bound_mean"]), abs=0.005)
        if line["finished"] == "2":
            assert float(error) == pytest.approx(float(line["test_bound_half_width"]), abs=0.005)
        else:
            assert error == ""


def test_the_comparison_page_shows_a_nonfinite_number(
    browser: Browser, several: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(several.parent, tmp_path / "several"))
    summary = folder / "5,0" / "summary.json"
    write_with_digest(summary, read_with_digest(summary) | {"test_bound": math.nan})
    file, _ = comparison.write(comparison.compare([folder]), folder / comparison.COMPARISON)
    page = browser.new_page()
    page.goto(file.as_uri())
    assert bounds_of(page)[1] == "not finite"
    page.get_by_role("button", name="test bound (nats)").click()
    assert bounds_of(page)[-1] == "not finite"
    page.close()


def test_the_link_of_a_seed_opens_the_page_of_its_run(beside: Page, several: Path):
    seeds = beside.locator("#table tbody tr").nth(2).get_by_role("link")
    addresses = seeds.evaluate_all("links => links.map((link) => link.href)")
    expected = [several.parent / f"10,{seed}" / "explorer.html" for seed in (0, 1)]
    assert addresses == [path.as_uri() for path in expected]
    assert all(path.is_file() for path in expected)


def test_pictures_can_be_chosen_and_curves_of_both_splits(beside: Page):
    beside.get_by_label("picture").select_option("manifold")
    assert beside.locator("#shown img").count() == 1
    assert "1 of 3 rows" in beside.locator("#pictured").inner_text()
    script = (
        "() => [...document.querySelectorAll('#shown img')].every((one) => one.naturalWidth > 0)"
    )
    assert beside.evaluate(script)
    beside.get_by_label("bound on").select_option("train")
    assert "training bound" in (beside.locator("#curves svg").get_attribute("aria-label") or "")


def test_the_comparison_page_fits_its_screen_and_every_control_has_an_accessible_name(beside: Page):
    check_size_and_names(beside)
