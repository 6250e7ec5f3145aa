"""`python -m benchmarks.report_pictures REPORT FOLDER`: pictures of a report of `alignax compare`.

REPORT is the page; FOLDER gets `frontier.png` and `league.png`, at twice the usual resolution.
Needs the Python package playwright and an installed Chromium or Chrome, driven without a window.
"""

import argparse
import pathlib
import shutil

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
STYLE = """
.bar, .league :is(th, td):nth-child(n + 7) { display: none }
.sort::after { content: none !important }
"""  # the controls, and what a README has no room for
PICTURES = {"frontier.png": "#frontier figure", "league.png": "#league .box"}


def browser() -> str | None:
    """The path of an installed browser that can be driven, if there is one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def pictures(report: pathlib.Path, folder: pathlib.Path, width: int = 1140) -> list[pathlib.Path]:
    """Writes the pictures of the first budget, in the light theme."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    with (
        sync_playwright() as driver,
        driver.chromium.launch(executable_path=browser()) as chromium,
    ):
        page = chromium.new_page(
            viewport={"width": width, "height": 900},
            device_scale_factor=2,
            color_scheme="light",
        )
        page.goto(report.resolve().as_uri())
        page.add_style_tag(content=STYLE)
        for name, selector in PICTURES.items():
            page.locator(selector).first.screenshot(path=folder / name)
    return [folder / name for name in PICTURES]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    options = parser.parse_args()
    for path in pictures(options.report, options.folder):
        print(path)
