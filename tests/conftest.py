import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Slow processors: no limit on the time that hypothesis takes for an example or for drawing it
too_slow = [HealthCheck.too_slow]
settings.register_profile("any machine", deadline=None, suppress_health_check=too_slow)
settings.load_profile("any machine")


def pytest_configure(config):
    """A GPU is for the tests marked so, by -m gpu: no two trainings on it end alike to the bit."""
    if config.option.markexpr.strip() != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items):
    """Side by side: files, and of one the tests that share a folder beside those that don't."""
    for item in items:
        shares = "outputs" in item.fixturenames
        item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}, {shares}"))


@pytest.fixture(scope="module")
def one_thread():
    """Networks this small run several times faster on one thread where processors are shared."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU, and -m gpu")
    return request.param


@pytest.fixture(autouse=True)
def seeded():
    """A test draws the same random numbers whether or not others ran before it."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def closed():
    """A test's figures do not stay open."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture
def no_training(monkeypatch):
    import torch

    monkeypatch.setattr(torch.optim.SGD, "step", lambda *args: pytest.fail("trained"))


@pytest.fixture(scope="session")
def cifar10_root(tmp_path_factory):
    """A data root that holds the real cifar10.npz, unpacked once a session."""
    source = os.environ.get("SEMLIB_TEST_DATA")
    if not source:
        pytest.skip("$SEMLIB_TEST_DATA isn't set: the folder of real images with its unpack.py")
    root = tmp_path_factory.mktemp("real")
    command = [sys.executable, Path(source) / "unpack.py", root]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    yield root
    shutil.rmtree(root)  # 184 MB


@pytest.fixture
def folder(tmp_path):
    """A folder with the tiny data set in data/."""
    import helpers

    helpers.tiny_data(tmp_path / "data")
    return tmp_path


@pytest.fixture
def place(folder, monkeypatch):
    """The folder with the tiny data set, as data root; a user's modules in it are found."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("SEMLIB_DATA", str(folder / "data"))
    before = {*sys.modules}
    yield folder
    for name in {*sys.modules} - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]
