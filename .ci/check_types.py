"""Run mypy; fail on an error in the strict packages, and on more errors elsewhere than ALLOWED."""

import re
import subprocess
import sys
from pathlib import Path

STRICT = ("dualasr/model/", "dualasr/audio/", "dualasr/transcription/")
ALLOWED = 199  # errors outside the strict packages; this number only falls


def main() -> int:
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-pretty"], cwd=root, capture_output=True, text=True
    )
    errors = [line for line in done.stdout.splitlines() if re.match(r"\S+: error: ", line)]
    if done.returncode not in (0, 1) or (done.returncode == 1 and not errors):
        print(done.stdout + done.stderr, file=sys.stderr)
        return 1
    strict = [line for line in errors if line.startswith(STRICT)]
    elsewhere = [line for line in errors if not line.startswith(STRICT)]
    print(f"mypy: {len(strict)} errors in {', '.join(STRICT)}; {len(elsewhere)} elsewhere")
    if strict:
        print("\n".join(strict), "Wanted: none. Correct these.", sep="\n", file=sys.stderr)
    if len(elsewhere) > ALLOWED:
        said = f"Wanted: at most {ALLOWED} elsewhere. Correct what is new."
        print("\n".join(elsewhere), said, sep="\n", file=sys.stderr)
    elif len(elsewhere) < ALLOWED:
        print(f"Set ALLOWED in .ci/check_types.py to {len(elsewhere)}: so many are left.")
    return 1 if strict or len(elsewhere) > ALLOWED else 0


if __name__ == "__main__":
    sys.exit(main())
