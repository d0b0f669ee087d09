"""Shows that tests/test_golden.py catches changes of meaning and no others: run this file.

A line of MEANING changes one thing in a copy of semlib, as a slip would: the golden numbers that
should notice it, a file, a regular expression => its replacement. NONE renames variables, and all
numbers should stay. The exit status is the number of surprises.
"""

import os
import re
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

import sklearn.metrics  # noqa: F401  # like PyTorch slow to import: once for all changes
import torch

ROOT = Path(__file__).parents[1]
MEANING = r"""
classification, training.py: momentum=0\.9 => momentum=0.8
classification, training.py: nesterov=True => nesterov=False
rotation, training.py: (?s)(        if auxiliary:\n +im.*?s\[1.*?\n)(.*?s\[0.*?\n) => \2\1
step, training.py: 0\.3, 0\.6, 0\.8 => 0.3, 0.6, 0.9
step, training.py: 0\.2 \*\* => 0.1 **
one_cycle, training.py: rise = 0\.25 => rise = 0.3
rotation, training.py: parts\[0\] != "heads" or => parts[0] == "heads" and
rotation, training.py: recipe\.auxiliary_weight \* loss => loss
one_cycle, training.py: weight_decay: float = 5e-4 => weight_decay: float = 5e-3
one_cycle, training.py: augment=recipe\.auxiliary_augment => augment=False
rotation, auxiliary.py: rotation\.share = 4 => rotation.share = 2
rotation, auxiliary.py: rot90\(k, => rot90(-k,
classification, batches.py: self\.height // 8 => self.height // 4
classification, batches.py: if self\.flip => if not self.flip
classification, datasets/augmentation.py: mode="reflect" => mode="symmetric"
classification, datasets/augmentation.py: < 0\.5 => < 0.4
classification, datasets/augmentation.py: - height \+ 1 => - height
center_mask, datasets/augmentation.py: fill\.to\(images\.dtype\), => 0 * fill,
classification, models/wide_resnet.py: \(images - self\.mean\) / self\.std => images
evaluation, models/wide_resnet.py: al_\(module\.weight\) => al_(module.weight, mode="fan_out")
classification, models/wide_resnet.py: self\.conv2\(self\.dropout\( => self.dropout(self.conv2(
evaluation, models/wide_resnet.py: self\.shortcut\(activated\) => self.shortcut(images)
classification, models/conditional_norm.py: __init__\(channels\) => __init__(channels, momentum=0.2)
cpc, models/cpc.py: STEPS = 5 => STEPS = 4
evaluation, metrics/scores.py: images - epsilon => images + epsilon
evaluation, metrics/scores.py: epsilon: float = 5e-5 => epsilon: float = 5e-4
evaluation, metrics/scores.py: temperature: float = 1000\.0 => temperature: float = 100.0
scores, metrics/scores.py: logits\.double\(\)\.softmax => logits.softmax
evaluation, metrics/evaluation.py: norm\.momentum = None => pass
scores, metrics/detectors.py: RIDGE = 1e-6 => RIDGE = 1e-5
scores, metrics/detectors.py: KNN_NEIGHBOURS = 50 => KNN_NEIGHBOURS = 40
scores, metrics/detectors.py: dimensions // 2 => dimensions // 3
scores, metrics/detectors.py: features\), 90\) => features), 85)
scores, metrics/detectors.py: 0\.85 \* => 0.9 *
evaluation, metrics/detection.py: scores, return_inverse => scores.round(1), return_inverse
"""
NONE = r"""
all, training.py: \brate\b(?!\() => speed
all, training.py: \bbatches\b(?! import) => parts_of_data
all, metrics/detectors.py: \bwhiten\b => decorrelate
"""


def outcome(numbers: str, file: str, pattern: str, new: str) -> str:
    with tempfile.TemporaryDirectory() as name:
        changed = Path(shutil.copytree(ROOT / "semlib", Path(name, "semlib")), file)
        text, count = re.subn(pattern, new, changed.read_text())
        changed.write_text(text)
        if not (child := os.fork()):
            try:
                sys.path[:0] = [name, str(ROOT / "tests")]
                from test_golden import NUMBERS, differences

                os._exit(any(differences(n) for n in NUMBERS if numbers in ("all", n)))
            except BaseException:  # the changed code can't be run
                traceback.print_exc()
                os._exit(2)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return ("not caught", "caught", "broken")[status if count else 2]


if __name__ == "__main__":
    torch.set_num_threads(1)
    surprises = 0
    for expected, changes in (("caught", MEANING), ("not caught", NONE)):
        for line in changes.strip().splitlines():
            found = outcome(*re.fullmatch(r"(\w+), (\S+): (.+) => (.+)", line).groups())
            surprises += found != expected
            print(f"{found:10} {line}", flush=True)
    sys.exit(surprises)
