"""Make, look at and remove the lab.

Usage: python -m lab up [PART ...] | down | status | build [MODULE ...] | env

`up` without names starts the core (Kubernetes, Tekton, KServe, router, MLflow on PostgreSQL and S3, ...); with names,
those parts and what they need. `build` builds modules into the cache: `build tkn oc` for the clients, which the core
does not need. `env` prints the exports that point kubectl, tkn and the e2e suite at it.
"""

from __future__ import annotations

import argparse
import sys
import time

from lab import lifecycle, parts
from lab.part import Lab, LabError


def main() -> int:
    """One line on failure: what, why, what to do."""
    parser = argparse.ArgumentParser(
        prog="lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["up", "down", "status", "build", "env"])
    parser.add_argument("names", nargs="*", help=f"parts: {', '.join(parts.TABLE)}")
    arguments = parser.parse_args()
    lab, began = Lab(), time.monotonic()
    try:
        if arguments.what == "up":
            lifecycle.up(lab, arguments.names)
            print(f"lab: ready after {time.monotonic() - began:.0f} s; `make lab-down` ends it")
        elif arguments.what == "down":
            lifecycle.down(lab)
            print(f"lab: down after {time.monotonic() - began:.0f} s")
        elif arguments.what == "status":
            return lifecycle.status(lab)
        elif arguments.what == "build":
            lifecycle.build(lab, arguments.names)
        else:
            print(lifecycle.exports(lab))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
