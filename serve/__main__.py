"""`python -m dualasr_serve`, or from the repository `python -m serve`: the same as `dualasr serve`."""

import sys

from dualasr.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
