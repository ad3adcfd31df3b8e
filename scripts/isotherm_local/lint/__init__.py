"""Check the catalog's own rules: YAML against the rules of the house, against the programs, and against Tekton.

Usage: isotherm lint [--fix] [--list] [--root DIR] [RULE...]

Prints one line a finding, `file:line: rule: what is wrong; what to do`, and a summary. Exit 0 without findings, 1 with
some. A check whose tool is missing is named as skipped; with ISOTHERM_REQUIRE_GO=1 it is a finding.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Collection
from pathlib import Path

from isotherm_local import readmes
from isotherm_local.lint import docs, files, gotools, images, openshift, overlays, programs, runs, schema, steps, wiring
from isotherm_local.lint.model import RULES, Catalog, Finding

# What each family's import registers; named here so that the imports are seen to have a use.
FAMILIES = (files, steps, images, programs, wiring, runs, docs, schema, overlays, openshift)
NEED_GO = {"schema", "rendered", "render", "overlay-namespace", "overlay-digest", "overlay-image-ref"}
CHECKOUT = Path(__file__).resolve().parents[3]


def check(root: Path, only: Collection[str] = ()) -> tuple[list[Finding], list[str]]:
    """Apply all rules, or those named, to a checkout; return the findings and a line for each rule that was skipped."""
    catalog, skipped = Catalog(root), list[str]()
    findings: set[Finding] = set()
    for identifier in only or RULES:
        if identifier == "yamllint" and importlib.util.find_spec("yamllint") is None:
            skipped.append("yamllint is not installed here; `make lint` has it")
            continue
        try:
            findings.update(RULES[identifier].run(catalog))
        except gotools.Missing as error:
            if gotools.required():
                findings.add(Finding("scripts/schemas", 0, identifier, str(error)))
            else:
                skipped.append(f"{identifier}: {error}")
    return sorted(findings), skipped


def main(argv: list[str]) -> int:
    """Run the linter from the command line."""
    parser = argparse.ArgumentParser(prog="isotherm lint", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("rules", nargs="*", metavar="RULE", help="check only these (default: all)")
    parser.add_argument("--fix", action="store_true", help="first rewrite the generated parts of the READMEs")
    parser.add_argument("--list", action="store_true", help="list the rules and end")
    parser.add_argument("--root", type=Path, default=CHECKOUT, help="checkout to look at (default: this one)")
    options = parser.parse_args(argv)
    if options.list:
        width = max(map(len, RULES))
        print("\n".join(f"{rule.id:{width}}  {rule.says}" for rule in RULES.values()))
        return 0
    unknown = [name for name in options.rules if name not in RULES]
    if unknown:
        print(f"error: no rule is called {', '.join(unknown)}; `isotherm lint --list` names them", file=sys.stderr)
        return 2
    if options.fix:
        for path in readmes.rewrite(Catalog(options.root)):
            print(f"wrote {path}")
    began = time.monotonic()
    findings, skipped = check(options.root, options.rules)
    for line in [*map(str, findings), *(f"skipped: {line}" for line in skipped)]:
        print(line)
    count, rules = len(findings), len(options.rules or RULES)
    print(
        f"{count or 'no'} finding{'' if count == 1 else 's'}, {rules} rules, "
        f"{len(skipped)} skipped, {time.monotonic() - began:.1f} s"
    )
    return 1 if findings else 0
