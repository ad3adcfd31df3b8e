"""What a Containerfile says: its instructions, and which files of the context it copies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path


def instructions(path: Path) -> Iterator[tuple[str, str]]:
    """Walk a Containerfile's instructions, comments left out and continued lines joined: `("USER", "1001")`."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word:
            yield word.upper(), rest.strip()


def declared(path: Path) -> set[str]:
    """Name the build arguments that a Containerfile takes."""
    return {rest.partition("=")[0] for word, rest in instructions(path) if word == "ARG"}


def copied(path: Path, arguments: Mapping[str, str] | None = None) -> list[str]:
    """List what a Containerfile copies from its context (what it takes from another stage is left out).

    `arguments` are build arguments; one that is not given has the default that its ARG states.
    """
    found: list[str] = []
    values: dict[str, str] = {}
    for word, rest in instructions(path):
        if word == "ARG":
            name, _, default = rest.partition("=")
            values[name] = (arguments or {}).get(name, default)
        elif word == "COPY" and not rest.startswith("--from="):
            sources = [source for source in rest.split()[:-1] if not source.startswith("--")]
            found += [re.sub(r"\$\{(\w+)\}", lambda match: values.get(match[1], ""), source) for source in sources]
    return [source.rstrip("/") for source in found]
