"""`python -m dualasr_serve`, or `python -m serve` in the repository, is `dualasr serve`."""

import sys

from dualasr.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
