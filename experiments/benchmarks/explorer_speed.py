"""Measures how soon the page of a run repaints after a drag, in Debian's chromium.

    python experiments/benchmarks/explorer_speed.py [--rounds=5] [--moves=60]

The pages show models of the Frey faces after some steps of training; the quality of a model makes
no difference. A round drags the point across the latent plane of each page in turn. Two times are
measured for each move: the time of the handler, which decodes and draws the face, and the time from
the event to the end of the next frame, which a screen shows 60 times per second.
"""

import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import harness
from playwright.sync_api import Browser, Page, sync_playwright

from aevb import runs
from aevb.config import default_config, validate, with_values

MODELS: dict[str, dict[str, Any]] = {
    "Z = 2, 200 hidden units": {},
    "Z = 20, 500 hidden units": {"model.num_latents": 20, "model.hidden": (500,)},
    "Z = 20, convolutions of 32 and 64 channels": {
        "model.num_latents": 20, "model.network": "conv", "model.hidden": (32, 64),
        "model.init": "fan_in", "optimizer.step_size": 0.001,
    },
}  # fmt: skip
SIZE = {"width": 1200, "height": 900}
FRAME_MS = 1000 / 60

# The first and last listener of a move, and a message that is handled after the frame is drawn.
CLOCK = """() => {
    window.clock = { handler: [], painted: [] };
    let began;
    addEventListener("pointermove", () => { began = performance.now(); }, true);
    addEventListener("pointermove", () => {
        const start = began, { handler, painted } = window.clock;
        handler.push(performance.now() - start);
        requestAnimationFrame(() => {
            const { port1, port2 } = new MessageChannel();
            port1.onmessage = () => painted.push(performance.now() - start);
            port2.postMessage(null);
        });
    });
}"""


def make_pages(folder: Path) -> dict[str, Path]:
    pages = {}
    for number, (title, values) in enumerate(MODELS.items()):
        short = {"train.num_examples": 2000, "train.first_eval": 1000, **values}
        runs.run(validate(with_values(default_config(), short)), folder / str(number))
        pages[title] = folder / str(number) / "explorer.html"
    return pages


def opened(browser: Browser, file: Path) -> Page:
    page = browser.new_page(viewport={"width": SIZE["width"], "height": SIZE["height"]})
    page.goto(file.as_uri())
    page.evaluate(CLOCK)
    return page


def drag(page: Page, moves: int) -> dict[str, list[float]]:
    """Drags from corner to corner, and returns the milliseconds of each move."""
    page.bring_to_front()
    page.evaluate("() => { window.clock.handler.length = window.clock.painted.length = 0; }")
    box = page.locator("#plane").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    for number in range(1, moves + 1):
        share = number / (moves + 1)
        page.mouse.move(box["x"] + share * box["width"], box["y"] + share * box["height"])
    page.mouse.up()
    page.wait_for_timeout(100)
    found = page.evaluate("() => window.clock")
    assert len(found["handler"]) >= moves, "the page has not seen the moves"
    return found


def statistics_of(times: list[float]) -> dict[str, float]:
    return {**harness.summary(times), "p95": statistics.quantiles(times, n=20)[-1]}


def main() -> None:
    parser = harness.argument_parser(__doc__, rounds=5)
    parser.add_argument("--moves", type=int, default=60, help="of a drag")
    args = parser.parse_args()
    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("there is no chromium; Debian's package has it")
    load = harness.load_of_others()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        files = make_pages(Path(folder))
        sizes = {title: file.stat().st_size for title, file in files.items()}
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        version = browser.version
        pages = {title: opened(browser, file) for title, file in files.items()}
        handler, painted = ({title: [] for title in MODELS} for _ in range(2))
        for number in range(args.rounds):
            for title in harness.in_turn(list(pages), number):
                found = drag(pages[title], args.moves)
                handler[title] += found["handler"]
                painted[title] += found["painted"]
        browser.close()
    results = {
        title: {
            "page_bytes": sizes[title],
            "moves": len(handler[title]),
            "handler_ms": statistics_of(handler[title]),
            "painted_ms": statistics_of(painted[title]),
        }
        for title in MODELS
    }
    harness.write_report(
        args,
        load,
        browser=f"chromium {version}, headless, drawn by the CPU",
        frame_ms=FRAME_MS,
        pages=results,
    )


if __name__ == "__main__":
    main()
