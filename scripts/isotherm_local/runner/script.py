"""A step's `script`: a file that the interpreter of its first line runs, as Tekton and the kernel do."""

from __future__ import annotations

from pathlib import Path

from isotherm_local.runner import images
from isotherm_local.runner.images import Environment

PREAMBLE = "#!/bin/sh\nset -e\n"


def whole(script: str) -> str:
    """Put Tekton's preamble before a script that names no interpreter."""
    return script if script.strip().startswith("#!") else PREAMBLE + script


def interpreter(script: str) -> list[str]:
    """Split the first line as the kernel does: the program and at most one argument; `env NAME` is NAME.

    Empty where that line is not the first, which the kernel cannot start either.
    """
    first = whole(script).splitlines()[0]
    if not first.startswith("#!"):
        return []
    words = first[2:].split(maxsplit=1)
    if words and words[0].endswith("/env") and len(words) == 2:
        return words[1].removeprefix("-S").split()
    return [word.strip() for word in words]


def missing(script: str, environment: Environment) -> str:
    """Name the interpreter that is not on this machine; empty where all is well."""
    words = interpreter(script)
    return words[0] if words and images.program(words[0], environment) is None else ""


def command(script: str, environment: Environment, file: Path) -> list[str]:
    """Write the script and make the command that runs it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(whole(script), encoding="utf-8")
    file.chmod(0o755)
    program, *argument = interpreter(script) or [str(file)]
    found = images.program(program, environment)
    return [str(file)] if found is None or program == str(file) else [found, *argument, str(file)]
