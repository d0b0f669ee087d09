"""The inspector in JupyterLab and a real browser: run all cells, change the controls, and look at what changed on the page.

$SEMLIB_SCREENSHOTS: a folder to keep the screenshots of every state in.
"""

import importlib.util
import os
from pathlib import Path

import lab
import numpy as np
import pytest
from helpers import made_up

from semlib import datasets
from semlib.runs import plan, store

NEEDED = [name for name in ("playwright", "jupyterlab") if not importlib.util.find_spec(name)] + ["chromium"] * (
    not lab.CHROMIUM
)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(NEEDED), reason=f"not installed: {', '.join(NEEDED)}")]
NOTEBOOK = "inspect_pr_curves.ipynb"
SIZES = {"laptop": (1280, 800), "desktop": (1920, 1080)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def experiment(folder):
    """Made-up runs on the digits, whose images are there."""
    digest = datasets.load("digits").digests
    return made_up(folder / "outputs", images=600, dataset="digits", data=digest)


@pytest.fixture(scope="module")
def address(folder, experiment):
    """A JupyterLab over the notebook, with a second profile."""
    made_up(folder / "outputs", profile="other", dataset="cifar10", hold_out=["cat", "dog"])
    lab.copy(NOTEBOOK, folder / NOTEBOOK, profile="made_up", outputs=str(folder / "outputs"))
    lab.copy(NOTEBOOK, folder / "empty.ipynb", outputs=str(folder / "nothing"))
    with lab.server(folder) as where:
        yield where


@pytest.fixture(params=SIZES)
def page(request, address, tmp_path):
    """The notebook with all its cells run; afterwards no error may have happened on the page."""
    errors = []
    with lab.browser(*SIZES[request.param]) as page:
        page.on("pageerror", lambda error: errors.append(str(error)))
        lab.execute(page, address, NOTEBOOK)
        page.get_by_label("Sort by").wait_for(timeout=120_000)
        page.keep = lambda name: keep(page, f"{request.param}-{name}", tmp_path)
        yield page
    assert errors == []


def keep(page, name: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("SEMLIB_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


def shown(page) -> list[str]:
    """The held-out classes that have a panel."""
    return page.locator(".semlib .panels h4").all_inner_texts()


def dots(page) -> list[tuple[str, str]]:
    found = page.locator(".semlib circle.at").all()
    return [(dot.get_attribute("cx"), dot.get_attribute("cy")) for dot in found]


def flagged(experiment, share: float) -> float:
    """Test images at or above the score that flags this share: mean over rotation's trials and the classes 3 and 8."""
    counts = []
    for run in plan.planned(experiment):
        if run.hold_out in ("3", "8") and run.method == "rotation":
            scores = store.find(run).scores()["msp"]
            counts.append((scores >= np.sort(scores)[-round(share * len(scores))]).sum())
    return np.mean(counts)


def until(page, count: int, what: str) -> None:
    """Wait until so many of these are on the page."""
    page.wait_for_function("([what, count]) => document.querySelectorAll(what).length === count", arg=[what, count])


def test_changing_class_method_and_threshold_changes_the_page(page, experiment):
    page.keep("opened")
    assert shown(page) == [str(k) for k in range(10)] and len(dots(page)) == 10 * 2 * 3
    for name in "01245679":
        page.get_by_label(f"Held-out classes: {name}").uncheck()
    until(page, 2, ".semlib .panels h4")
    assert shown(page) == ["3", "8"]
    page.get_by_label("Methods: Classification-only").focus()
    page.keyboard.press("Space")  # by keyboard
    until(page, 2 * 3, ".semlib circle.at")
    page.get_by_label("Scores: ODIN").check()
    until(page, 2 * 2 * 3, ".semlib circle.at")
    page.keep("two classes")

    before, said = dots(page), page.get_by_role("status").first.inner_text()
    page.get_by_role("slider").focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    page.get_by_text("Flagging the most anomalous 12 %").first.wait_for()  # 10 % and 20 steps
    page.get_by_label("flag the top %").fill("55")
    page.get_by_label("flag the top %").press("Enter")
    page.get_by_text("Flagging the most anomalous 55 %").first.wait_for()
    assert f"{flagged(experiment, 0.55):.0f} flagged" in page.get_by_role("status").first.inner_text() != said
    assert all(float(after[0]) > float(old[0]) for after, old in zip(dots(page), before, strict=True))  # recall has grown
    page.keep("threshold")


def test_every_tab_and_profile_is_shown(page):
    page.get_by_label("Sort by").select_option("MSP Rotation-augmented")
    table = page.locator(".semlib .summed tbody tr")
    page.wait_for_function("() => document.querySelector('.semlib .summed tbody th').innerText !== '0'")
    values = [float(text.split()[0]) for text in table.locator("td:nth-of-type(2)").all_inner_texts()[:-1]]
    assert values == sorted(values, reverse=True) and len(values) == 10
    page.get_by_role("tab", name="At the threshold").click()
    until(page, 10 * 2, ".semlib .wide:not(.summed) tbody tr")
    page.keep("numbers")
    page.get_by_role("tab", name="Images").click()
    page.locator(".semlib figure img").first.wait_for()
    assert page.locator(".semlib figure img").evaluate_all("all => all.every(image => image.naturalWidth === 8)")
    page.get_by_label("Held out", exact=True).select_option("7")
    page.locator('.semlib figure img[alt*=": 7, predicted"]').first.wait_for()
    page.keep("images")
    page.get_by_role("tab", name="Taken for").click()
    until(page, 10, ".semlib .charts section")
    page.keep("taken for")
    page.get_by_label("Profile").select_option("other")
    until(page, 2, ".semlib .panels h4")
    assert shown(page) == ["cat", "dog"] and "53.12 ± 0.92" in page.locator(".semlib .panels").inner_text()
    page.keep("other profile")
    page.get_by_label("Save as").fill("kept")
    page.get_by_role("button", name="selection (CSV)").click()
    page.get_by_text("other/kept.csv").wait_for()


def test_with_nothing_to_show_it_says_what_to_run(address, tmp_path):
    with lab.browser() as page:
        lab.execute(page, address, "empty.ipynb")
        page.get_by_text("There are no finished runs in").wait_for(timeout=120_000)
        keep(page, "empty", tmp_path)
