"""The page of a run in a browser: it draws what JAX decodes, follows a hand, and asks for nothing.

`make test-browser`, where Debian's chromium is installed.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

import aevb
from aevb import runs
from aevb.config import default_config, validate, with_values

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


@pytest.fixture(params=SIZES)
def page(request: pytest.FixtureRequest, browser: Browser, folder: Path) -> Iterator[Page]:
    """The run's page, which has no network, asks for nothing and has no error."""
    width, height = SIZES[request.param]
    scheme: Any = "dark" if request.param == "phone" else "light"
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.goto((folder / "explorer.html").as_uri())
    yield page
    assert [url for url in asked if not url.startswith("data:")] == [page.url]
    assert errors == []
    context.close()


def shown(page: Page) -> np.ndarray:
    """The grey levels 0..255 of the picture."""
    script = """() => {
        const picture = document.getElementById("picture");
        const { data } = picture.getContext("2d").getImageData(0, 0, picture.width, picture.height);
        return Array.from(data).filter((_, i) => i % 4 === 0);
    }"""
    return np.array(page.evaluate(script))


def test_it_decodes_as_jax_does(page: Page, folder: Path):
    run = aevb.load_run(folder)
    z = np.asarray(2.0 * jax.random.normal(jax.random.key(0), (100, 2)))
    found = page.evaluate("zs => zs.map((z) => Array.from(decode(z)))", z.tolist())
    np.testing.assert_allclose(found, jax.vmap(run.decode)(jnp.asarray(z)), atol=1e-4)
    page.evaluate("z => move(z)", z[0].tolist())
    expected = 255 * np.asarray(run.decode(jnp.asarray(z[0])))
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
    page.mouse.move(box["x"], box["y"])  # which moves nothing any more
    z = jnp.asarray(page.evaluate("state.z"))
    expected = jax.scipy.special.ndtri(np.array([0.8, 0.75]))
    np.testing.assert_allclose(z, expected, atol=0.02)
    np.testing.assert_allclose(shown(page), 255 * np.asarray(run.decode(z)), atol=0.6)


def test_the_keyboard_moves_it(page: Page):
    page.locator("#plane").focus()
    before = page.evaluate("state.z.map(cdf)")
    for key in ("ArrowRight", "Shift+ArrowUp", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    after = page.evaluate("state.z.map(cdf)")
    np.testing.assert_allclose(np.subtract(after, before), [-0.01, 0.1], atol=1e-6)
    assert page.locator("#z").inner_text() == page.evaluate(
        'state.z.map((z) => z.toFixed(2)).join(", ")'
    )


def test_a_slider_and_a_walk_move_it(page: Page):
    slider = page.get_by_role("slider").first
    slider.fill("0.9")
    assert page.evaluate("Math.max(...state.z)") == pytest.approx(1.2816, abs=1e-3)
    page.get_by_role("button", name="test datapoint 0", exact=True).click()
    start = page.evaluate("state.z")
    page.locator("#strip button").nth(50).click()
    end = page.evaluate("state.z")
    page.locator("#walk").fill("0.25")
    found = page.evaluate("state.z")
    np.testing.assert_allclose(found, 0.75 * np.array(start) + 0.25 * np.array(end), atol=1e-6)


def test_it_fits_its_screen_and_everything_has_a_name(page: Page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    script = """() => [...document.querySelectorAll("button, input, select, canvas[role]")]
        .filter((one) => !one.getAttribute("aria-label") && !one.textContent.trim()
                && !(one.labels && one.labels.length)).length"""
    assert page.evaluate(script) == 0
