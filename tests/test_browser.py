"""The inspector and method.ipynb in JupyterLab and a real browser: change something, look.

$SEMLIB_SCREENSHOTS: a folder to keep the screenshots of every state in.
"""

import importlib.util
import itertools
import json
import os
import platform
from pathlib import Path

import lab
import numpy as np
import pytest
from helpers import made_up, pets

from workbench.batch import notebooks
from workbench.images import prepared
from workbench.results import image_map
from workbench.runs import plan, store

NEEDED = [name for name in ("playwright", "jupyterlab") if not importlib.util.find_spec(name)]
NEEDED += ["chromium"] if lab.CHROMIUM is None else []
WHY = f"not installed: {', '.join(NEEDED)}"
pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(NEEDED), reason=WHY)]
NOTEBOOK = "inspect_pr_curves.ipynb"
SIZES = {"laptop": (1280, 800), "desktop": (1920, 1080)}
PLOTS = ".semlib .js-plotly-plot"
TITLES = f"{PLOTS}:has(.scatterlayer) .annotation"  # a panel's, each
MARKS = ".semlib .scatterlayer .point"  # where the threshold is on a trial's curve
LINES = ".semlib .shape-group path"  # the thresholds in the histograms
# Where on the page the k-th point of a panel's first trial is, and its data
PLACE = """([panel, k]) => {
    const plot = document.querySelector(".semlib .js-plotly-plot");
    plot.scrollIntoView({block: "center"});
    const [x, y] = [plot._fullLayout["xaxis" + panel], plot._fullLayout["yaxis" + panel]];
    const trace = plot._fullData.find(trace => trace.opacity < 1 && trace.xaxis === "x" + panel);
    const box = plot.getBoundingClientRect();
    const data = [trace.x[k], trace.y[k], ...trace.customdata[k]];
    const left = box.left + x._offset + x.l2p(trace.x[k]);
    return [left, box.top + y._offset + y.l2p(trace.y[k]), data];
}"""
# Where on the page each point of a map is, and its image
EVERY = """plot => {
    const { xaxis, yaxis } = plot._fullLayout;
    const box = plot.getBoundingClientRect();
    return plot._fullData.flatMap(({ x, y, customdata }) => [...customdata].map((image, k) =>
        [box.left + xaxis._offset + xaxis.l2p(x[k]), box.top + yaxis._offset + yaxis.l2p(y[k]),
         image]));
}"""
REDRAW = """async plot => {
    for (let k = 0; k < 10; k++) {
        const { data, layout } = JSON.parse(document.querySelector("#figure").text);
        data[1].marker.size = 6 + k % 2;
        await Plotly.react(plot, data, layout);
    }
}"""
RANGES = """() => {
    const { xaxis, yaxis, xaxis7, yaxis7 } = document.querySelector('.js-plotly-plot')._fullLayout;
    return [xaxis, yaxis, xaxis7, yaxis7].map(axis => axis.range);
}"""
LEGEND = """() => {
    const plot = document.querySelector('.js-plotly-plot');
    const place = element => element.getBoundingClientRect();
    const axes = [...plot.querySelectorAll('.xtick text, .annotation, .infolayer .xtitle')];
    const lowest = Math.max(...axes.map(axis => place(axis).bottom));
    const traces = [...plot.querySelectorAll('.legend .traces')].map(place);
    return [lowest, place(plot.querySelector('.legend')).top,
            place(plot.querySelector('.modebar')).bottom, place(plot).bottom,
            Math.max(...traces.map(one => one.bottom)), traces.length];
}"""
# Open a notebook and wait for its kernel: is it unsaved?
DIRTY = """async path => {
    const app = window.jupyterapp;
    await app.restored;
    const panel = await app.commands.execute("docmanager:open", {path});
    await panel.context.ready;
    await panel.sessionContext.ready;
    await panel.sessionContext.session.kernel.info;
    await new Promise(resolve => setTimeout(resolve, 2000));
    return panel.context.model.dirty;
}"""
FIRST_LINE = f"() => document.querySelectorAll('{PLOTS}')[1].layout.shapes[0].x0"
# Lab's own errors on a slow machine: it takes its splash screen away twice, and can't read what a
# kernel writes to stderr while it starts
LABS_OWN = ("Failed to execute 'removeChild'", "Kernel message validation error")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def experiment(folder):
    """Made-up runs on the digits, whose images are there."""
    digest = prepared.digests_of(prepared.load("digits"))
    return made_up(folder / "outputs", images=600, dataset="digits", data=digest)


@pytest.fixture(scope="module")
def address(folder, experiment):
    """A JupyterLab over the notebook, with a second profile."""
    scores = ["msp", "odin", "energy", "entropy"]
    which = {"dataset": "cifar10", "hold_out": ["cat", "dog"], "scores": scores}
    made_up(folder / "outputs", profile="other", **which)
    for record in store.finished(experiment):  # where a map's points are
        places = np.random.default_rng(record.trial).normal(size=(600, 2))
        np.save(record.home / "map-PCA-mixed-none.npy", places.astype(np.float32))
    places = {"outputs": str(folder / "outputs"), "data_root": str(folder / "data")}
    lab.copy(NOTEBOOK, folder / NOTEBOOK, profile="made_up", outputs=places["outputs"])
    own = str(pets(folder, seed=0))
    digest = prepared.digests_of(prepared.load(own, places["data_root"]))
    how = {"profile": "own", "dataset": own, "data_root": places["data_root"]}
    made_up(folder / "outputs", images=12, hold_out="bee", data=digest, **how)
    lab.copy(NOTEBOOK, folder / "own.ipynb", profile="own", dataset=own, **places)
    with lab.server(folder) as where:
        yield where


@pytest.fixture(params=SIZES)
def page(request, address, tmp_path):
    """The notebook with all its cells run; nothing may fail on the page or be asked of the net."""
    errors = []
    asked = []
    with lab.browser(*SIZES[request.param]) as page:
        page.on("pageerror", lambda error: errors.append(error.stack or str(error)))
        page.on("request", lambda request: asked.append(request.url.split("?")[0]))
        lab.execute(page, address, NOTEBOOK, dark=request.param == "desktop")
        until(page, 10, TITLES)
        page.keep = lambda name: keep(page, f"{request.param}-{name}", tmp_path)
        yield page
        # the next test has a kernel of its own
        page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
    errors = [error for error in errors if not any(text in error for text in LABS_OWN)]
    assert errors == []
    elsewhere = [url for url in asked if "//127.0.0.1" not in url and not url.startswith("data:")]
    assert elsewhere == []


def keep(page, name: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("SEMLIB_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


def until(page, count: int, what: str) -> None:
    """Wait until so many of these are on the page."""
    there = "([what, count]) => document.querySelectorAll(what).length === count"
    page.wait_for_function(there, arg=[what, count], timeout=60_000)


def choose(page, label: str, *values: str) -> None:
    page.get_by_label(label, exact=True).select_option(list(values))


def press(page, button: str) -> None:
    page.get_by_role("button", name=button).click()


def share(page) -> float:
    return float(page.get_by_label("flag the top %").input_value())


def changed(page, before: float) -> float:
    """The share that is flagged, once it is another."""
    box = "document.querySelector('.semlib input[type=number]')"
    there = f"([before]) => Math.abs({box}.value - before) > 1e-9"
    page.wait_for_function(there, arg=[before], timeout=60_000)
    return share(page)


def arrays(experiment, *which: object) -> dict:
    for run in plan.planned(experiment):
        if (run.hold_out, run.method, run.trial) == which:
            return store.find(run).scores()


def test_a_point_says_what_its_threshold_does_and_a_click_puts_the_threshold_there(
    page, experiment
):
    """In the fourth panel, of class 3; the numbers and the histogram below follow."""
    page.keep("opened")
    until(page, 10 * 2 * 3, MARKS)
    page.wait_for_timeout(500)  # Lab scrolls to the cell that was run
    for _ in range(20):
        x, y, (recall, precision, threshold, flagged, missed, trial) = page.evaluate(PLACE, [4, 20])
        page.mouse.move(x - 30, y)
        page.mouse.move(x, y)
        page.wait_for_timeout(500)
        if said := page.locator(".semlib .hoverlayer .hovertext").all_text_contents():
            break
    numbers = arrays(experiment, "3", "classification", trial)
    above = numbers["msp"] >= threshold
    assert (above.sum(), (numbers["is_anomaly"] & ~above).sum()) == (flagged, missed)
    said = said[0].replace("\u2212", "-")
    assert f"3, trial {trial}Classification-only, MSPrecall {recall:.3f}" in said
    assert f", precision {precision:.3f}threshold {threshold:.6g}" in said
    assert f"flagged {flagged}, missed {missed}" in said
    page.keep("hover")
    before = share(page)
    page.mouse.down()
    page.mouse.up()
    assert changed(page, before) == pytest.approx(100 * flagged / 600, abs=1e-3)
    press(page, "Histograms")
    until(page, 2, LINES)
    assert page.evaluate(FIRST_LINE) == threshold
    assert page.get_by_label("Held out", exact=True).input_value() == "3"
    page.keep("histograms")
    page.get_by_role("figure").nth(1).scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    before = share(page)
    place = page.locator(LINES).first.bounding_box()
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + 50)
    page.mouse.down()
    page.mouse.move(place["x"] - 60, place["y"] + 50, steps=5)  # to lower scores: more is flagged
    page.mouse.up()
    assert changed(page, before) > before


def test_whatever_the_mouse_does_the_keyboard_does_too(page, experiment):
    choose(page, "Held-out classes", "3", "8")
    until(page, 2, TITLES)
    page.get_by_label("Methods", exact=True).focus()
    page.keyboard.press("End")  # the last method alone
    until(page, 2 * 3, MARKS)
    choose(page, "Scores", "MSP", "ODIN")
    until(page, 2 * 2 * 3, MARKS)
    page.keep("two classes")
    page.get_by_role("slider").focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    page.get_by_text("Flagging the most anomalous 12 %").first.wait_for()  # 10 % and 20 steps
    page.get_by_label("flag the top %").fill("55")
    page.get_by_label("flag the top %").press("Enter")
    page.get_by_text("Flagging the most anomalous 55 %").first.wait_for()
    counts = []
    for name, trial in itertools.product("38", range(3)):
        scores = arrays(experiment, name, "rotation", trial)["msp"]
        counts.append((scores >= np.sort(scores)[-round(0.55 * len(scores))]).sum())
    assert f"{np.mean(counts):.6g}" in page.get_by_role("status").first.inner_text()
    assert page.get_by_role("figure", name="Precision-recall curves").count() == 1


def test_every_view_is_shown_and_fits(page):
    choose(page, "Sort by", "MSP Rotation-augmented mean")
    rows = "document.querySelectorAll('.semlib tbody th.level0')"
    page.wait_for_function(f"() => {rows}.length === 11")
    press(page, "At the threshold")
    until(page, 10 * 2, ".semlib tbody tr")
    press(page, "Images")
    images = page.locator(".semlib td img")
    images.first.wait_for()
    assert images.evaluate_all("all => all.every(image => image.naturalWidth === 8)")
    choose(page, "Held out", "7")
    page.locator('.semlib td img[alt*=": 7, predicted"]').first.wait_for()
    page.keep("images")
    press(page, "Confusions")
    until(page, 10 * 2, ".semlib tbody tr")
    page.keep("confusions")
    press(page, "Histograms")
    until(page, 2, LINES)
    page.wait_for_timeout(1000)
    sizes = "all => all.map(plot => [plot._fullLayout.width, plot.clientWidth])"
    widths = page.locator(PLOTS).evaluate_all(sizes)
    assert len(widths) == 2
    for drawn, there in widths:
        assert drawn == there > 0.6 * page.viewport_size["width"]


def test_threshold_curves_and_images_are_on_one_screen_and_follow_the_slider(page):
    press(page, "Images")
    images = page.locator(".semlib td img")
    images.first.wait_for()
    top = "slider => slider.closest('.widget-hbox').scrollIntoView({block: 'start'})"
    page.get_by_role("slider").evaluate(top)
    page.wait_for_timeout(500)
    page.keep("one screen")
    for part in (page.get_by_role("slider"), page.get_by_role("figure").first, images.first):
        box = part.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= page.viewport_size["height"] - 26
    shown = page.locator(".semlib .sides").inner_html()
    page.get_by_role("slider").focus()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    there = "before => document.querySelector('.semlib .sides').innerHTML !== before"
    page.wait_for_function(there, arg=shown, timeout=60_000)
    rows = " ".join(page.locator(".semlib .sides th").all_inner_texts()[:2])
    assert "anomalies found" in rows and "anomalies missed" in rows
    first = page.locator(".semlib .sides td img").first.get_attribute("alt")
    page.get_by_label("Page", exact=True).fill("2")
    page.get_by_label("Page", exact=True).press("Enter")
    other = "before => document.querySelector('.semlib .sides td img').alt !== before"
    page.wait_for_function(other, arg=first, timeout=60_000)


@pytest.mark.parametrize("size", SIZES)
def test_images_of_an_own_folder_have_the_names_of_their_files(size, address):
    with lab.browser(*SIZES[size]) as page:
        lab.execute(page, address, "own.ipynb")
        press(page, "Images")
        image = page.locator('.semlib td img[alt^="bee/"]').first
        name = image.get_attribute("alt", timeout=60_000).split(":")[0]
        image.click()
        page.locator(".semlib .beside p", has_text=name).wait_for(timeout=60_000)
        assert page.locator(f'.semlib .beside [alt="{name}"]').is_visible()


def test_a_zoom_is_of_all_panels_and_a_double_click_takes_it_back(page):
    """And never moves the threshold; the legend is below the panels, also with eight curves."""
    page.wait_for_timeout(500)
    before = page.evaluate(RANGES)
    assert before[0] == before[2] == [0, 1] and before[1] == before[3]
    x, y, _ = page.evaluate(PLACE, [4, 20])
    page.mouse.move(x - 40, y - 15)
    page.mouse.down()
    page.mouse.move(x + 40, y + 15, steps=5)
    page.mouse.up()
    page.wait_for_function(f"() => ({RANGES})()[2][1] < 0.95", timeout=60_000)
    ranges = page.evaluate(RANGES)
    assert ranges[:2] == ranges[2:] and ranges[0] != before[0]
    page.keep("zoomed")
    flagged = share(page)
    x, y, _ = page.evaluate(PLACE, [4, 20])
    page.mouse.dblclick(x, y)
    page.wait_for_function(f"() => ({RANGES})()[2][1] === 1", timeout=60_000)
    assert page.evaluate(RANGES) == before
    page.wait_for_timeout(1500)
    assert share(page) == flagged
    press(page, "whole")
    page.wait_for_function(f"() => ({RANGES})()[1][1] === 1.02", timeout=60_000)
    choose(page, "Table", "other: cifar10, runs: 12")
    until(page, 2, TITLES)
    choose(page, "Scores", "MSP", "ODIN", "Energy", "Entropy")
    until(page, 2 * 8 * 3, MARKS)
    page.get_by_role("figure").first.hover()
    page.wait_for_timeout(500)
    page.keep("eight curves")
    lowest, top, bar, end, last, entries = page.evaluate(LEGEND)
    assert entries == 8 + 1 and bar < lowest <= top + 2 and last <= end + 1


def test_a_map_shows_images_at_the_pointer_and_selects_them(page, experiment):
    press(page, "Map")
    plot = page.locator(".semlib .js-plotly-plot").nth(1)
    plot.locator("canvas").first.wait_for(state="attached", timeout=60_000)
    plot.evaluate("plot => plot.scrollIntoView({block: 'center'})")
    page.wait_for_timeout(1000)
    x, y, image = plot.evaluate(EVERY)[-3]  # of a held-out class
    for _ in range(20):
        page.mouse.move(x - 9, y)
        page.mouse.move(x, y)
        page.wait_for_timeout(500)
        if plot.locator(".thumbnail").count():
            break
    assert f"test image {image}" in plot.locator(".hovertext").text_content()
    page.keep("map")
    page.mouse.down()
    page.mouse.up()
    page.locator(f'.semlib .beside img[data-image="{image}"]').wait_for(timeout=60_000)
    until(page, 10 * 2 * 3 + 2 * 3, MARKS)  # the stars, of one class
    plot.evaluate("plot => plot.scrollIntoView({block: 'center'})")
    page.wait_for_timeout(1000)
    box = plot.bounding_box()
    x = box["x"] + box["width"] / 2
    y = box["y"] + box["height"] / 2
    page.mouse.move(x - 90, y - 60)
    page.mouse.down()
    for dx, dy in ((90, -60), (90, 60), (-90, 60), (-90, -60)):
        page.mouse.move(x + dx, y + dy, steps=5)
    page.mouse.up()
    page.get_by_text("Selected images: ").wait_for(timeout=60_000)
    page.keep("lasso")
    inside = []
    for left, top, number in plot.evaluate(EVERY):
        if abs(left - x) < 85 and abs(top - y) < 55:
            inside.append(f"test image {number}")
    press(page, "lasso (CSV)")
    page.get_by_text("-lasso.csv").wait_for()
    (path,) = experiment.folder.glob("*-lasso.csv")
    selected = {row.split(",")[0] for row in path.read_text().splitlines()[1:]}
    path.unlink()
    assert inside and {*inside} <= selected and len(selected) < 400


def busy(chrome) -> float:
    """Seconds that the page's thread has worked."""
    metrics = chrome.send("Performance.getMetrics")["metrics"]
    return next(each["value"] for each in metrics if each["name"] == "TaskDuration")


def test_a_saved_map_opens_from_the_disk_without_a_net(tmp_path):
    """Of 10,000 images: under 15 MB, drawn anew in under 0.3 s, with thumbnails and a click.

    Seconds of the page's thread, in which other processes don't count.
    """
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (10_000, 3, 8, 8), dtype=np.uint8).repeat(4, 2).repeat(4, 3)
    groups = random.choice(["normal", "found", "missed"], 10_000, p=[0.9, 0.05, 0.05])
    texts = [f"<b>test image {k}</b>, cat<br>taken for dog, rank by MSP {k}" for k in range(10_000)]
    drawn = image_map.figure(random.normal(size=(10_000, 2)), groups, np.array(texts))
    saved = image_map.ImageMap("A map", "About it.", drawn, image_map.sheet(images))
    path = saved.save(tmp_path / "map.html")
    assert path.stat().st_size < 15e6
    asked = []
    errors = []
    for width, height in SIZES.values():
        with lab.browser(width, height) as page:
            page.context.set_offline(True)
            page.on("request", lambda request: asked.append(request.url))
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(path.as_uri(), timeout=180_000)
            plot = page.locator(".js-plotly-plot")
            plot.locator("canvas").first.wait_for(state="attached", timeout=60_000)
            page.wait_for_timeout(1000)
            x, y, _ = plot.evaluate(EVERY)[-3]
            page.mouse.move(x - 9, y)
            page.mouse.move(x, y)
            plot.locator(".thumbnail").wait_for(timeout=30_000)
            page.mouse.down()
            page.mouse.up()
            page.locator("[role=status] .thumbnail").wait_for(timeout=30_000)
            assert "taken for dog" in page.get_by_role("status").inner_text()
            keep(page, f"saved map {width}", tmp_path)
            chrome = page.context.new_cdp_session(page)
            chrome.send("Performance.enable", {"timeDomain": "threadTicks"})
            before = busy(chrome)
            plot.evaluate(REDRAW)
            assert 0 < (busy(chrome) - before) / 10 < 0.3
    assert errors == [] and {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}


def test_pictures_are_saved(page, folder, tmp_path):
    for ending, head in (("PNG", b"\x89PNG"), ("SVG", b"<svg")):
        button = f".semlib .modebar-btn[data-title^=Download][data-title$={ending}]"
        with page.expect_download() as saved:
            page.get_by_role("figure").first.hover()
            page.locator(button).first.click()
        saved.value.save_as(tmp_path / "picture")
        assert (tmp_path / "picture").read_bytes().startswith(head)
    titles = "all => all.map(button => button.dataset.title)"
    buttons = page.locator(".semlib .modebar-btn").evaluate_all(titles)
    assert buttons and not [text for text in buttons if "hare" in text or "loud" in text]
    page.get_by_label("Save as").fill("kept")
    press(page, "figure (PDF)")
    page.get_by_text("made_up/kept.pdf").wait_for()
    assert (folder / "outputs" / "made_up" / "kept.pdf").read_bytes().startswith(b"%PDF")


def test_a_page_that_is_loaded_again_shows_what_was_chosen(page):
    choose(page, "Held-out classes", "3", "8")
    until(page, 2, TITLES)
    press(page, "Histograms")
    until(page, 2, LINES)
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.reload()
    until(page, 2, LINES)
    until(page, 2, TITLES)
    chosen = "select => [...select.selectedOptions].map(option => option.text)"
    assert page.get_by_label("Held-out classes", exact=True).evaluate(chosen) == ["3", "8"]
    before = share(page)
    page.get_by_role("slider").focus()
    page.keyboard.press("ArrowRight")
    assert changed(page, before) > before  # the kernel is there too
    page.get_by_text(f"Flagging the most anomalous {share(page):.3g} %").first.wait_for()


def test_opening_a_notebook_leaves_it_saved(tmp_path):
    """A copy as `make lab` makes it; also the committed one, with this kernel's version."""
    notebooks.copy_all(tmp_path)
    ours = json.loads((lab.ROOT / "notebooks" / "table3_cifar10.ipynb").read_text())
    ours["metadata"]["language_info"]["version"] = platform.python_version()
    (tmp_path / "committed.ipynb").write_text(json.dumps(ours, indent=1))
    with lab.server(tmp_path) as address, lab.browser() as page:
        page.goto(address)
        page.wait_for_function("() => window.jupyterapp", timeout=120_000)
        for name in ("committed", "method", "inspect_pr_curves"):
            assert page.evaluate(DIRTY, f"{name}.ipynb") is False


# --- the method by hand

CELLS = """() => Object.fromEntries(window.jupyterapp.shell.currentWidget.content.widgets
    .filter(cell => cell.model.type === "code")
    .map(cell => [cell.model.id, cell.model.outputs.toJSON()]))"""
# Begin to edit a cell, as by a click into it
EDIT = """async id => {
    const content = window.jupyterapp.shell.currentWidget.content;
    const place = content.widgets.findIndex(cell => cell.model.id === id);
    content.activeCellIndex = place;
    await content.scrollToItem(place);
    content.mode = "edit";
    content.activeCell.editor.focus();
    return content.activeCell.model.sharedModel.getSource();
}"""


def pictures(outputs: list) -> list[str]:
    return [o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})]


def test_who_edits_the_loss_of_method_ipynb_sees_another_curve(tmp_path):
    """Run all, edit the loss in its cell, run it and those below; with few images, two epochs."""
    lab.copy("method.ipynb", tmp_path / "method.ipynb", epochs=2, train_per_class=20)
    text = (tmp_path / "method.ipynb").read_text()
    own = json.dumps(f'"profile": "method", "outputs": "{tmp_path}",')[1:-1]
    text = text.replace(json.dumps('"profile": "method",')[1:-1], own)
    (tmp_path / "method.ipynb").write_text(text)
    errors = []
    with lab.server(tmp_path) as address, lab.browser() as page:
        page.on("pageerror", lambda error: errors.append(error.stack or str(error)))
        lab.execute(page, address, "method.ipynb")
        first = page.evaluate(CELLS)
        keep(page, "method", tmp_path)
        source = page.evaluate(EDIT, "method-08")
        page.keyboard.press("Control+A")
        edited = source.replace("return F.cross_entropy", "return 9 * F.cross_entropy")
        page.keyboard.insert_text(edited)
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-below')")
        second = page.evaluate(CELLS)
        keep(page, "method edited", tmp_path)
    for cells in (first, second):
        kinds = {name: [o["output_type"] for o in outputs] for name, outputs in cells.items()}
        assert "error" not in itertools.chain(*kinds.values())
        assert kinds["method-15"] == ["display_data"]  # the figure that grew: one output
        assert kinds["method-30"][-1] == "execute_result"  # the table
    # runs.complete's figure; the second time all is finished: the library's rotation was not edited
    assert [len(pictures(cells["method-30"])) for cells in (first, second)] == [1, 0]
    assert pictures(first["method-04"]) == pictures(second["method-04"])
    assert pictures(first["method-15"]) != pictures(second["method-15"])
    assert not [error for error in errors if not any(text in error for text in LABS_OWN)]
