"""The public face."""

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import dualasr


def test_all_is_sorted_and_there():
    assert dualasr.__all__ == sorted(dualasr.__all__)
    assert all(callable(getattr(dualasr, name)) for name in dualasr.__all__)


def test_the_version_is_the_installed_one_and_asks_for_no_torch():
    code = "import sys, dualasr; print(dualasr.__version__, 'torch' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.split() == [dualasr.__version__, "False"] and dualasr.__version__ == version(
        "dualasr"
    )


def test_torchaudio_is_imported_only_where_it_is_called():
    house = Path(dualasr.__file__).parents[1]
    for path in [*house.glob("dualasr/**/*.py"), *house.glob("serve/*.py")]:
        for node in ast.parse(path.read_text()).body:
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "torchaudio" for name in named), path
