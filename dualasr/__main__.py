"""python -m dualasr"""

from dualasr.cli import main

raise SystemExit(main())
