"""Shows that tests/test_golden.py catches changes of meaning and no others: run this file.

Each line of MEANING changes one thing in a copy of semlib, as a slip would; NONE renames variables.
The exit status is the number of surprises.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAINING, BATCHES, AUXILIARY = "training.py", "batches.py", "auxiliary.py"
WRN, NORM, CPC = "models/wide_resnet.py", "models/conditional_norm.py", "models/cpc.py"
SCORES, EVALUATION = "metrics/scores.py", "metrics/evaluation.py"
DETECTORS, AUGMENT = "metrics/detectors.py", "datasets/augmentation.py"
# file, regular expression, replacement
MEANING = (
    (TRAINING, r"momentum=0\.9", "momentum=0.8"),
    (TRAINING, r"nesterov=True", "nesterov=False"),
    (TRAINING, r"(?s)(        if auxiliary:\n.*?losses\[1.*?\n)(.*?losses\[0.*?\n)", r"\2\1"),
    (TRAINING, r"0\.3, 0\.6, 0\.8", "0.3, 0.6, 0.9"),
    (TRAINING, r"0\.2 \*\*", "0.1 **"),
    (TRAINING, r"rise = 0\.25", "rise = 0.3"),
    (TRAINING, r"progress >= m", "progress > m"),
    (TRAINING, r'parts\[0\] != "heads" or ', 'parts[0] != "heads" and '),
    (TRAINING, r"recipe\.auxiliary_weight \* loss", "loss"),
    (TRAINING, r"weight_decay: float = 5e-4", "weight_decay: float = 5e-3"),
    (TRAINING, r"augment=recipe\.auxiliary_augment", "augment=False"),
    (TRAINING, r"augment=True", "augment=False"),
    (TRAINING, r"            net\.train\(\)\n            losses", "            losses"),
    (AUXILIARY, r"rotation\.share = 4", "rotation.share = 2"),
    (AUXILIARY, r"rot90\(k,", "rot90(-k,"),
    (BATCHES, r"self\.height // 8", "self.height // 4"),
    (BATCHES, r"if self\.flip", "if not self.flip"),
    (BATCHES, r"values = np\.arange\(256\) / 255", "values = np.arange(256) / 256"),
    (AUGMENT, r'mode="reflect"', 'mode="symmetric"'),
    (AUGMENT, r"< 0\.5", "< 0.4"),
    (AUGMENT, r"- height \+ 1", "- height"),
    (AUGMENT, r"fill\.to\(images\.dtype\), images", "images, fill.to(images.dtype)"),
    (WRN, r"\(images - self\.mean\) / self\.std", "images"),
    (WRN, r"kaiming_normal_\(module\.weight\)", 'kaiming_normal_(module.weight, mode="fan_out")'),
    (WRN, r"self\.conv2\(self\.dropout\((.*)\)\)\n", r"self.dropout(self.conv2(\1))\n"),
    (WRN, r"self\.shortcut\(activated\)", "self.shortcut(images)"),
    (NORM, r"super\(\)\.__init__\(channels\)", "super().__init__(channels, momentum=0.2)"),
    (NORM, r"or not self\.norm_batch", ""),
    (CPC, r"STEPS = 5", "STEPS = 4"),
    (CPC, r" / width\)", " / width**0.5)"),
    (SCORES, r"images - epsilon", "images + epsilon"),
    (SCORES, r"epsilon: float = 5e-5", "epsilon: float = 5e-4"),
    (SCORES, r"temperature: float = 1000\.0", "temperature: float = 100.0"),
    (SCORES, r"logits\.double\(\)\.softmax", "logits.softmax"),
    (EVALUATION, r"norm\.momentum = None", "pass"),
    (DETECTORS, r"RIDGE = 1e-6", "RIDGE = 1e-5"),
    (DETECTORS, r"KNN_NEIGHBOURS = 50", "KNN_NEIGHBOURS = 40"),
    (DETECTORS, r"dimensions // 2", "dimensions // 3"),
    (DETECTORS, r"features\), 90\)", "features), 85)"),
    (DETECTORS, r"0\.85 \*", "0.9 *"),
    ("metrics/detection.py", r"scores, return_inverse", "scores.round(1), return_inverse"),
)
NONE = (
    (TRAINING, r"\brate\b(?!\()", "speed"),
    (TRAINING, r"\bbatches\b(?!\.py|\s+import| import)", "parts_of_data"),
    (DETECTORS, r"\bwhiten\b", "decorrelate"),
)


def caught(file: str, pattern: str, new: str) -> bool:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "semlib", folder / "semlib")
        text, count = re.subn(pattern, new, (folder / "semlib" / file).read_text())
        assert count, f"{file} has no {pattern}"
        (folder / "semlib" / file).write_text(text)
        command = [sys.executable, str(ROOT / "tests" / "test_golden.py")]
        environment = os.environ | {"PYTHONPATH": str(folder)}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert done.stdout or not done.returncode, f"{file} can't be run with {new}"
        return "off by" in done.stdout


if __name__ == "__main__":
    surprises = 0
    for expected, changes in ((True, MEANING), (False, NONE)):
        for change in changes:
            found = caught(*change)
            surprises += found != expected
            print("caught    " if found else "not caught", *change, flush=True)
    sys.exit(surprises)
