"""Train one of each kind in a checkout: python tests/same_training.py CHECKOUT [KIND ...] > a.json

Two checkouts train the same networks exactly if they print the same: for each run the SHA-256 of
its weights and of its scores.npz, by its address. Through the command line alone, so that it works
in any version. Hounds need $SEMLIB_ILSVRC.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers import OWN_NETWORK, parameters

TASK = """
import torch
import torch.nn.functional as F

def halves(net, images):
    height = images.shape[2] // 2
    upper, lower = images[:, :, :height], images[:, :, -height:]
    parts = torch.cat([upper.repeat(1, 1, 2, 1), lower.repeat(1, 1, 2, 1)])
    labels = torch.arange(2, device=images.device).repeat_interleave(len(images))
    return F.cross_entropy(net(parts, head="halves"), labels)

halves.heads = {"halves": 2}
"""
SCORES = "[msp, odin, energy, mahalanobis, vim, react]"
DIGITS = {"file": "benchmark", "hold_out": "3", "trials": 1, "epochs": 3, "scores": SCORES}
FEW = {"train_per_class": 60, "hold_out": "none", "norm_batch": 16, "batch_size": 64}
HOUNDS = {"file": "table5_imagenet_rotation", "hold_out": "Saluki", "epochs": 2, "scores": SCORES}
CPC = {"file": "table6_imagenet_cpc", "dataset": "[imagenet_dog]", "hold_out": "beagle"}
KINDS = {
    "digits": DIGITS | {"methods": "[classification, rotation, center_mask]", "dropout": 0.2},
    "bfloat16": DIGITS | {"methods": "[classification, rotation]", "precision": "bfloat16"},
    "task": DIGITS | {"methods": '["mine:halves"]'},
    "network": DIGITS | {"architecture": "mine:small"},
    "few": DIGITS | FEW | {"schedule": "step"},
    "hounds": HOUNDS,
    "cpc": CPC | {"methods": "[cpc]", "epochs": 1, "cpc_augment": "true"},
}


def train(checkout: Path, folder: Path, kind: str) -> dict[str, list[str]]:
    given = KINDS[kind] | {"outputs": folder / "outputs", "profile": kind, "data_root": folder}
    params = f"params/demo/{given.pop('file')}.yaml"
    words = ["run", f"notebooks/{Path(params).stem}.ipynb", "-f", params, *parameters(**given)]
    path = os.pathsep.join([str(checkout), str(folder)])
    how = {"cwd": checkout, "env": os.environ | {"PYTHONPATH": path, "TQDM_DISABLE": "1"}}
    command = [sys.executable, "-m", "semlib", *words]
    subprocess.run(command, check=True, stdout=sys.stderr, **how)
    found = {}
    for record in sorted((folder / "outputs" / kind).glob("runs/**/record.json")):
        scores = hashlib.sha256(record.with_name("scores.npz").read_bytes()).hexdigest()
        place = str(record.parent.relative_to(folder / "outputs"))
        found[place] = [json.loads(record.read_text())["weights_sha256"], scores]
    return found


def main() -> None:
    checkout = Path(sys.argv[1]).resolve()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "mine.py").write_text(TASK + OWN_NETWORK)
        for kind in sys.argv[2:] or KINDS:
            found |= train(checkout, Path(name), kind)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
