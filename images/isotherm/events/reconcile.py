"""Create the runs whose events were lost: compare branches, alerts and the registry with the runs seen.

Reads   RECONCILE_CONFIG (a YAML file, see isotherm.events.config), SCRATCH_DIR (mirrors of the branches)
Writes  PipelineRuns, from the TriggerTemplates that the listeners use and under the names that the events give
Exit    0 all sources compared; 4 one or more did not answer or cannot be used; the others were compared all the same
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

from isotherm import kube, tekton
from isotherm.events import config, reconcile_alerts, reconcile_git, reconcile_registry
from isotherm.events.runs import Runs

Pass = Callable[[Runs], None]


def sources(wanted: config.Config, scratch: Path) -> Iterator[tuple[str, Pass]]:
    """Name every source with what compares it: each watch, the alerts, each model of the registry."""
    for watch in wanted.git:
        yield f"git {watch.watch}", lambda runs, watch=watch: reconcile_git.reconcile(runs, watch, scratch)  # type: ignore[misc]
    for alerts in wanted.alerts:
        yield f"alerts {alerts.alertmanager_url}", lambda runs, alerts=alerts: reconcile_alerts.reconcile(runs, alerts)  # type: ignore[misc]
    if wanted.registry:
        registry = wanted.registry
        yield "registry", lambda runs: reconcile_registry.reconcile(runs, registry)


def compare(wanted: config.Config, cluster: kube.Cluster, scratch: Path) -> tuple[Runs, list[str]]:
    """Compare each source by itself; return the runs made and the sources that failed."""
    runs, failed = Runs(cluster, tekton.say), []
    for name, compared in sources(wanted, scratch):
        try:
            compared(runs)
        except Exception as error:
            # One source must not keep the others; what nobody foresaw is told like the rest and fails the pass.
            tekton.say(f"{name}: {tekton.last_line(error)}")
            failed.append(name)
    return runs, failed


def run() -> None:
    """Run one pass. Raises `tekton.Unavailable` at its end where a source failed."""
    env = tekton.environment(reconcile_config=Path, scratch_dir=Path)
    wanted = config.load(env.reconcile_config)
    runs, failed = compare(wanted, kube.Cluster.from_config(), env.scratch_dir)
    compared = len(list(sources(wanted, env.scratch_dir))) - len(failed)
    tekton.say(f"{len(runs.created)} runs created, {compared} sources compared, {len(failed)} failed")
    if failed:
        raise tekton.Unavailable(
            f"{len(failed)} sources could not be compared: {', '.join(failed)}",
            remedy="see the lines above; the next pass tries again",
        )


def main() -> int:
    """Run as the CronJob does."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    return tekton.step_main(run)


if __name__ == "__main__":
    raise SystemExit(main())
