"""`python -m semlib ...`: the commands are the workbench's."""

from workbench.cli import start

if __name__ == "__main__":
    start()
