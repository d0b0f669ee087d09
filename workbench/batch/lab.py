"""Copies of the notebooks to open in JupyterLab: `make lab`.

Lab saves outputs into what it opens, and the kernel's version. A copy in lab/, which git ignores,
has this machine's kernel and Python from the start, so that opening one changes nothing; a git
filter could only hide the changes, and not those of the parameters cell.
"""

import json
from pathlib import Path

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelspec import get_kernel_dict

from workbench.files import ROOT, short

COPIES = ROOT / "lab"


def copy_all(folder: Path = COPIES) -> list[Path]:
    """Copy each notebook into the folder; one that is there, perhaps edited, stays."""
    folder.mkdir(exist_ok=True)
    kernel = {"name": "python3", "language": "python"}
    kernel["display_name"] = get_kernel_dict()["display_name"]
    copies = []
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = json.loads(notebook.read_text())
        copy = folder / notebook.name
        if copy.exists():
            if copy.stat().st_mtime < notebook.stat().st_mtime:
                print(f"{short(copy)} stays; delete it to have the newer {short(notebook)}")
            continue
        text["metadata"] |= {"kernelspec": kernel, "language_info": IPythonKernel.language_info}
        copy.write_text(json.dumps(text, indent=1, ensure_ascii=False) + "\n")
        copies.append(copy)
    return copies


if __name__ == "__main__":
    copy_all()
