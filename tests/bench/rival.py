"""One of several who want a Route at once: claims the colour as kserve-deploy does and shifts as route-shift does.

Usage   python rival.py SECONDS   (waits for a line on stdin; then tries again and again while others are at it)
Reads   the environment of Task route-shift
Writes  ends.json in REPORTS_DIR: how its tries ended, each end that differs from the one before
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

from isotherm import contract, kube, tekton
from isotherm.deploy import plan, render, routes, shift


def claim() -> None:
    """Take the colour for this run. Raises `tekton.Refused` while somebody else shifts."""
    env = os.environ
    cluster = kube.Cluster.from_config()
    services = routes.pair(env["SERVICE_BLUE"], env["SERVICE_GREEN"])
    route = routes.Routes(cluster, services).require(env["ROUTE"])
    stored = {c: cluster.get(kube.INFERENCE_SERVICE, render.inference_service_name(route.name, c)) for c in services}
    held = {c: (one or {})["metadata"]["annotations"][contract.ANNOTATION_MODEL_DIGEST] for c, one in stored.items()}
    choice = plan.choose_colour(route, held, env["MODEL_DIGEST"], env["PIPELINE_RUN_UID"])
    found = stored[choice.colour]
    if choice.outcome == "unchanged" or found is None:
        return
    notes = {"metadata": {"annotations": {contract.ANNOTATION_CLAIMED_BY: env["PIPELINE_RUN_UID"]}}}
    cluster.patch(kube.INFERENCE_SERVICE, found["metadata"]["name"], notes, found["metadata"]["resourceVersion"])


def main(seconds: float) -> None:
    """Claim and shift until that works or the time is over."""
    ends: list[str] = []
    pause = 0.5
    sys.stdin.readline()
    deadline = time.monotonic() + seconds
    while True:
        try:
            claim()
            shift.run()
            end = Path(os.environ["RESULT_OUTCOME"]).read_text()
        except tekton.TaskError as error:
            end = f"refused: {error.what[:200]}"
        ends += [] if ends[-1:] == [end] else [end]
        Path(os.environ["REPORTS_DIR"], "ends.json").write_text(json.dumps(ends))
        if not ends[-1].startswith("refused") or time.monotonic() > deadline:
            return
        # Five who come back at once take the colour from each other for ever.
        pause = min(8.0, 2 * pause)
        time.sleep(pause * random.random())


if __name__ == "__main__":
    main(float(sys.argv[1]))
