"""Make a folder of Python packages ready for an image: drop what no program imports, compile the rest.

Usage: python slim.py FOLDER

The root of a container is read-only, so bytecode is made at build time. It is never compared with its source again:
builders may set the times of a layer's files, and an image's files do not change.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import sys
from pathlib import Path

# Test suites, and headers that only a compiler reads (no image has one).
DROPPED_FOLDERS = {"tests", "test", "include"}
# Beside the helper that torch starts for shared memory, torch/bin holds protoc and the binaries of its own tests.
KEPT_TOOLS = {"torch_shm_manager"}


def drop(folder: Path) -> None:
    """Remove test suites, headers and torch's build tools below `folder`."""
    for packages in folder.glob("lib/python*/site-packages/*"):
        for parent, folders, _ in os.walk(packages):
            for name in DROPPED_FOLDERS.intersection(folders):
                shutil.rmtree(Path(parent, name))
            folders[:] = [name for name in folders if name not in DROPPED_FOLDERS]
    for tool in folder.glob("lib/python*/site-packages/torch/bin/*"):
        if tool.is_dir():
            shutil.rmtree(tool)
        elif tool.name not in KEPT_TOOLS:
            tool.unlink()


def main() -> int:
    """Slim and compile the folder of the command line."""
    folder = Path(sys.argv[1])
    drop(folder)
    # A package may ship files of another Python's syntax, as templates: they stay uncompiled.
    compileall.compile_dir(folder, quiet=2, workers=0, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
