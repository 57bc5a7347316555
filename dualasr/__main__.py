"""Run the command line: `python -m dualasr`."""

from dualasr.cli.main import main

raise SystemExit(main())
