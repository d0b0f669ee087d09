"""Train one of each kind in a checkout, and print what came out: python tests/same_training.py
CHECKOUT > digests.json

Two checkouts train the same networks exactly if they print the same: for each run the SHA-256 of
its weights and of its scores.npz, by its address. Through the command line alone, so that it works
in any version. Hounds need $SEMLIB_ILSVRC.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OWN = '''
import torch
from torch import nn
import torch.nn.functional as F

def halves(net, images):
    """Tell upper halves from lower ones."""
    height = images.shape[2] // 2
    upper, lower = images[:, :, :height], images[:, :, -height:]
    parts = torch.cat([upper.repeat(1, 1, 2, 1), lower.repeat(1, 1, 2, 1)])
    labels = torch.arange(2, device=images.device).repeat_interleave(len(images))
    return F.cross_entropy(net(parts, head="halves"), labels)

halves.heads = {"halves": 2}

class Small(nn.Module):
    def __init__(self, classes, image_shape, heads, mean, std):
        super().__init__()
        layers = [nn.Conv2d(image_shape[0], 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.1)]
        self.trunk = nn.Sequential(*layers)
        outputs = {"classification": classes, **heads}
        self.heads = nn.ModuleDict({name: nn.Linear(16, n) for name, n in outputs.items()})

    def features(self, images):
        return self.trunk(images).mean((2, 3))

    def forward(self, images, head="classification"):
        return self.heads[head](self.features(images))

def small(classes, image_shape, heads, mean, std):
    return Small(classes, image_shape, heads, mean, std)
'''
SCORES = "[msp, odin, energy, mahalanobis, vim, react]"
DIGITS = {"f": "benchmark", "hold_out": "3", "trials": 1, "epochs": 3, "scores": SCORES}
CPC = {
    "f": "table6_imagenet_cpc",
    "dataset": "[imagenet_dog]",
    "hold_out": "beagle",
    "methods": "[cpc]",
}
KINDS = {
    "digits": DIGITS | {"methods": "[classification, rotation, center_mask]", "dropout": 0.2},
    "bfloat16": DIGITS | {"methods": "[classification, rotation]", "precision": "bfloat16"},
    "task": DIGITS | {"methods": '["mine:halves"]'},
    "network": DIGITS | {"architecture": "mine:small"},
    "killed": DIGITS | {"methods": "[rotation]", "hold_out": "7", "epochs": 12},
    "few": DIGITS
    | {
        "train_per_class": 60,
        "hold_out": "none",
        "norm_batch": 16,
        "batch_size": 64,
        "schedule": "step",
    },
    "hounds": {
        "f": "table5_imagenet_rotation",
        "hold_out": "Saluki",
        "epochs": 2,
        "scores": SCORES,
    },
    "cpc": CPC | {"epochs": 1, "cpc_augment": "true"},
}


def train(checkout: Path, folder: Path, kind: str, settings: dict) -> dict[str, list[str]]:
    given = settings | {
        "outputs": str(folder / "outputs"),
        "profile": kind,
        "data_root": str(folder / "data"),
    }
    params = f"params/demo/{given.pop('f')}.yaml"
    words = [
        sys.executable,
        "-m",
        "semlib",
        "run",
        f"notebooks/{Path(params).stem}.ipynb",
        "-f",
        params,
    ]
    for name, value in given.items():
        words += ["-p", name, str(value)]
    search = os.pathsep.join([str(checkout), str(folder)])
    how = {
        "cwd": checkout,
        "env": os.environ | {"PYTHONPATH": search, "TQDM_DISABLE": "1"},
        "stdout": sys.stderr,
    }
    if kind == "killed":
        process = subprocess.Popen(words, start_new_session=True, **how)
        while not any((folder / "outputs" / kind).glob("runs/**/checkpoint.before.pt")):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(words, check=True, **how)
    found = {}
    for record in sorted((folder / "outputs" / kind).glob("runs/**/record.json")):
        scores = hashlib.sha256(record.with_name("scores.npz").read_bytes()).hexdigest()
        place = f"{kind}/{record.parent.relative_to(folder / 'outputs' / kind / 'runs')}"
        found[place] = [json.loads(record.read_text())["weights_sha256"], scores]
    return found


def main() -> None:
    checkout = Path(sys.argv[1]).resolve()
    kinds = sys.argv[2:] or list(KINDS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "mine.py").write_text(OWN)
        found = {}
        for kind in kinds:
            found |= train(checkout, folder, kind, KINDS[kind])
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
