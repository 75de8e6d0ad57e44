"""A program that answers Snakemake's calls of ``conda``, for a test.

The Python of an environment that it makes is this Python. It writes its PYTHONPATH to the file ``used`` at each start.
"""

import sys
from pathlib import Path

CONDA = """#!/bin/sh
case "$*" in
"--version") echo conda 25.1.0 ;;
"info --json") echo '{{"conda_prefix": "{folder}", "platform": "linux-64"}}' ;;
"config --get channel_priority --json") echo '{{"get": {{"channel_priority": "strict"}}}}' ;;
"clean "*) ;;
"env create "*)
    for prefix; do :; done # the last argument
    mkdir -p "$prefix/bin"
    printf '#!/bin/sh\\necho "$PYTHONPATH" >> "%s/used"\\nexec {python} "$@"\\n' "$prefix" > "$prefix/bin/python"
    chmod +x "$prefix/bin/python" ;;
*) echo "no answer to conda $*" >&2; exit 2 ;;
esac
"""
ACTIVATE = 'export PATH="$1/bin:$PATH"\n'


def install(folder: Path) -> Path:
    """Write the program, and return the folder to put on PATH."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    (programs / "conda").write_text(CONDA.format(folder=folder, python=sys.executable))
    (programs / "conda").chmod(0o755)
    (programs / "activate").write_text(ACTIVATE)
    return programs
