"""Build the images of the catalog and print what they weigh.

An image is built again only when its Containerfile, its lock, the files that it copies or its base changed. Images,
layers and downloads are kept in ${XDG_CACHE_HOME:-~/.cache}/isotherm/images (or --cache).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from isotherm import tekton
from isotherm_local.images import engines, families, layout, make

ROOT = Path(__file__).resolve().parents[3]
MB = 1e6
BEGIN, END = "<!-- images: begin -->", "<!-- images: end -->"


def default_cache() -> Path:
    """Name the folder of builds of this user, outside every checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isotherm" / "images"


class Display:
    """Says what happens: one line that changes on a terminal, a line for each change elsewhere."""

    def __init__(self, *, verbose: bool) -> None:
        self.verbose = verbose
        self.terminal = sys.stderr.isatty() and not verbose
        self.steps = ("STEP", "[", "#")
        self.began = time.monotonic()

    def say(self, name: str, what: str) -> None:
        """Show a line of a build's output, or a word on its state."""
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            line = f"{time.monotonic() - self.began:4.0f} s  {name}: {what}"
            print(f"\r{line[:width].ljust(width)}", end="", file=sys.stderr, flush=True)
        elif self.verbose or what.startswith(self.steps) or what in ("unchanged", "packing") or "built in" in what:
            print(f"{name}: {what[:160]}", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Wipe the changing line."""
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def table(images: Sequence[layout.Built]) -> str:
    """Lay out the images' sizes: whole, above the shared base, and as a registry or an archive holds them."""
    rows = [("image", "MB", "without base", "compressed", "manifest digest")]
    for one in images:
        whole, own, compressed = (
            f"{size / MB:.0f}" for size in (one.unpacked, one.unpacked - one.base, one.compressed)
        )
        rows.append((one.reference.removeprefix("docker.io/"), whole, own, compressed, one.digest))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in (1, 2, 3)), row[4]]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def document(images: Sequence[layout.Built], path: Path) -> None:
    """Put the sizes into a document, between its two marks. Raises `tekton.BadInput` where it has none."""
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise tekton.BadInput(
            f"{path} has no marks for the table", remedy=f"write {BEGIN} and {END} on lines of their own"
        )
    rows = ["| image | MB | without the base | compressed | built in |", "|---|---|---|---|---|"]
    for one in images:
        sizes = " | ".join(f"{size / MB:.0f}" for size in (one.unpacked, one.unpacked - one.base, one.compressed))
        rows.append(f"| `{one.name}` | {sizes} | {one.seconds:.0f} s |")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text("\n".join([f"{before}{BEGIN}", *rows, f"{END}{after}"]), encoding="utf-8")


def archives(plan: make.Plan, built: Sequence[layout.Built], folder: Path) -> None:
    """Write each image as an OCI archive, FAMILY.tar; one that is there with the same digest stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for family, one in zip(plan.images, built, strict=True):
        target, stamp = folder / f"{one.name}.tar", folder / f"{one.name}.digest"
        if target.exists() and stamp.exists() and stamp.read_text().strip() == one.digest:
            continue
        stamp.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        engines.copy(f"oci:{plan.folder(family)}", f"oci-archive:{target}:{one.reference}")
        stamp.write_text(f"{one.digest}\n")


def push(plan: make.Plan, built: Sequence[layout.Built], registry: str) -> None:
    """Push each image to REGISTRY/isotherm/FAMILY:VERSION; the digest is the printed one."""
    for family, one in zip(plan.images, built, strict=True):
        target = f"{registry.rstrip('/')}/{one.reference.removeprefix('docker.io/')}"
        engines.copy(f"oci:{plan.folder(family)}", f"docker://{target}", "--preserve-digests")
        print(f"{target}@{one.digest}")


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = argparse.ArgumentParser(
        prog="isotherm images", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = top.add_argument
    add("family", nargs="*", metavar="FAMILY", help="build only these (default: all of images/)")
    add("--lab", action="store_true", help="build the images of tests/lab/images too")
    add("--cuda", action="store_true", help="build the trainer with CUDA, tag VERSION-cuda")
    add(
        "--base",
        default="",
        help="`debian` (by debootstrap), `ubi`, or an image (default: debian where it can be made)",
    )
    add("--mirror", default="", help="Debian mirror of the base (default: debootstrap's own)")
    add("--tool", default="", choices=engines.NAMES, help="build with this tool (default: the first that is there)")
    add(
        "--archives",
        type=Path,
        metavar="DIR",
        help="write an OCI archive FAMILY.tar of each (ctr -n k8s.io images import)",
    )
    add("--push", metavar="REGISTRY", help="push each to REGISTRY/isotherm/FAMILY:VERSION")
    add("--json", type=Path, metavar="FILE", help="write the table as JSON")
    add("--document", type=Path, metavar="FILE", help="write the table into a document, between its marks")
    add("--again", action="store_true", help="build even what did not change")
    add("--cache", type=Path, default=default_cache(), help="folder of builds (default: %(default)s)")
    add("--clean", action="store_true", help="remove everything that builds left in the cache, and stop")
    add("-v", "--verbose", action="store_true", help="show every line that the tool prints")
    return top


def run(options: argparse.Namespace) -> None:
    """Build, measure, and hand out."""
    cache = options.cache.resolve()
    if options.clean:
        make.clean(cache)
        return
    images = families.choose(ROOT, options.family, with_lab=options.lab, cuda=options.cuda)
    plan = make.Plan(ROOT, images, cache, options.base, options.mirror, options.tool, options.again)
    display = Display(verbose=options.verbose)
    try:
        built = make.make(plan, display.say)
    finally:
        display.clear()
    print(f"base: {plan.base_name}\n{table(built)}", flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([asdict(one) for one in built], indent=2) + "\n")
    if options.document:
        document(built, options.document)
    if options.archives:
        archives(plan, built, options.archives)
    if options.push:
        push(plan, built, options.push)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line and act; errors are one line with what, why and the remedy."""
    options = parser().parse_args(argv)
    return tekton.main(lambda: run(options))
