"""JupyterLab with a notebook open in headless Chromium.

As a program: a picture of the inspector over outputs/ (docs/notebooks.md).
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers import ROOT, environment

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
# Nothing asks for the internet. --no-sandbox: it must work as root. --disable-gpu: or a process
# more tries to draw with one, and pages wait for it.
FLAGS = "no-sandbox disable-quic no-first-run disable-sync disable-background-networking"
FLAGS += " disable-component-update disable-gpu"
# the status line is no guide to when cells can be run: it says idle before there is a kernel
OPEN = """async ([path, theme]) => {
    const app = window.jupyterapp;
    await app.restored;
    await app.commands.execute('apputils:change-theme', {theme});
    const panel = await app.commands.execute('docmanager:open', {path});
    await panel.context.ready;
    await panel.sessionContext.ready;
    await panel.sessionContext.session.kernel.info;
    app.shell.activateById(panel.id);
    app.shell.collapseLeft();
    await app.commands.execute('notebook:run-all-cells');
}"""


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A JupyterLab over the folder, on a free port of this machine and behind a token; its address.

    Its settings and workspaces are in the folder: a user's own are neither read nor changed.
    """
    token = os.urandom(16).hex()
    home = folder / ".jupyter"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    own = dict.fromkeys(places, home) | {"JUPYTER_RUNTIME_DIR": home / "runtime"}
    own |= {"IPYTHONDIR": folder / ".ipython", "JUPYTER_TOKEN": token}
    quiet = home / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    options = ("ip=127.0.0.1", f"port={port}", "port_retries=0", f"root_dir={folder}")
    command += [f"--ServerApp.{option}" for option in options]
    command.append("--LabApp.expose_app_in_browser=True")
    log = folder / "lab.log"
    with log.open("w") as out:
        how = {"cwd": folder, "env": environment(**own), "stdout": out, "stderr": out}
        process = subprocess.Popen(command, **how)
        try:
            for _ in range(600):
                assert process.poll() is None, log.read_text()
                try:
                    status = f"http://127.0.0.1:{port}/api/status?token={token}"
                    urllib.request.urlopen(status, timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/lab?token={token}"
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def browser(width: int = 1280, height: int = 900):
    """A page of a headless Chromium, of this size."""
    from playwright.sync_api import Error, sync_playwright

    how = {"executable_path": CHROMIUM, "args": [f"--{flag}" for flag in FLAGS.split()]}
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(**how, timeout=180_000)
        except Error as error:  # Chromium itself may not start at first where there is much to do
            print(f"Chromium is started anew after: {error}")
            chromium = playwright.chromium.launch(**how, timeout=180_000)
        try:
            yield chromium.new_page(viewport={"width": width, "height": height})
        finally:
            chromium.close()


def copy(notebook: str, target: Path, **parameters: object) -> None:
    """A copy of one of notebooks/ with these parameters: Lab saves what it opens."""
    text = json.loads((ROOT / "notebooks" / notebook).read_text())
    (cell,) = [cell for cell in text["cells"] if "parameters" in cell["metadata"].get("tags", ())]
    cell["source"].append("".join(f"\n{name} = {value!r}" for name, value in parameters.items()))
    target.write_text(json.dumps(text))


def execute(page, address: str, notebook: str, dark: bool = False) -> None:
    """Open the notebook and run all its cells, once its kernel is ready."""
    page.goto(address)
    page.wait_for_function("() => window.jupyterapp", timeout=120_000)
    page.evaluate(OPEN, [notebook, "JupyterLab Dark" if dark else "JupyterLab Light"])


def picture(path: str) -> None:
    """Save a picture of the inspector over this checkout's outputs/, with CIFAR-10's images."""
    name = "inspect_pr_curves.ipynb"
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as address:
        which = {"outputs": str(ROOT / "outputs"), "profile": "cpu", "dataset": "cifar10"}
        copy(name, Path(folder) / name, **which)
        with browser(height=1300) as page:
            execute(page, address, name)
            page.locator(".semlib .scatterlayer .point").first.wait_for(timeout=120_000)
            page.get_by_role("button", name="Images", exact=True).click()
            images = page.locator(".semlib td img")
            images.first.wait_for(timeout=120_000)
            images.nth(2).click()
            page.locator(".semlib .beside img[data-image] + p").wait_for(timeout=60_000)
            page.wait_for_timeout(2000)  # it is fitted to the page
            page.locator(".jp-OutputArea-output:has(.semlib)").first.screenshot(path=path)


if __name__ == "__main__":
    picture(sys.argv[1])
