"""Bring parts up (several at a time where they do not wait for each other), take them down, tell how they are."""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import os
import shutil
import subprocess
import time
from pathlib import Path

from isotherm_local.processes import last_line
from lab import daemons, golang, parts, secrets
from lab.part import Lab, LabError, Part

POLL_SECONDS = 0.5


def say(text: str) -> None:
    """Progress, a line at a time."""
    print(f"lab: {text}", flush=True)


def _install(wanted: list[Part]) -> None:
    """Install the Debian packages whose programs are missing."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    missing = sorted(
        {
            package
            for part in wanted
            for program, package in part.packages.items()
            if not (Path(program).exists() if program.startswith("/") else shutil.which(program, path=path))
        }
    )
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise LabError(
            f"{', '.join(missing)} not found; install them (Debian: sudo apt-get install {' '.join(missing)})"
        )
    say(f"installing {', '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=False, stdout=subprocess.DEVNULL)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"apt-get could not install {' '.join(missing)}: {done.stderr.strip()[-300:]}")


def build(lab: Lab, names: list[str]) -> None:
    """Build modules one after the other (Go itself uses every core); says how long each took.

    What the later ones need is downloaded meanwhile: the builds of a first `up` would wait for it half of their time.
    """
    wanted = names or list(golang.TABLE)
    unknown = [name for name in wanted if name not in golang.TABLE]
    if unknown:
        raise LabError(f"there is no module {', '.join(unknown)}; modules are {', '.join(golang.TABLE)}")
    missing = [name for name in wanted if not golang.built(lab, [name])]
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        for name in missing[1:]:
            pool.submit(golang.fetch, name)  # one that fails fails its build, which says why
        for name in missing:
            began = time.monotonic()
            say(f"building {name} ({', '.join(golang.TABLE[name].programs)})")
            golang.build(lab, name)
            say(f"built {name} in {time.monotonic() - began:.0f} s")
        pool.shutdown(cancel_futures=True)


DEFINITIONS = ("pipelines.tekton.dev", "inferenceservices.serving.kserve.io", "routes.route.openshift.io")


def use(kubeconfig: str) -> None:
    """Say whether the user's own cluster has what the catalog needs. Raises `LabError` naming what it lacks."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise LabError("KUBECONFIG names a cluster, but kubectl is not installed; install it, or unset KUBECONFIG")
    command = [kubectl, f"--kubeconfig={kubeconfig}", "get", "crd", "-o", "name"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LabError(f"the cluster of KUBECONFIG does not answer ({last[-200:]}); correct or unset KUBECONFIG")
    missing = [name for name in DEFINITIONS if f"/{name}" not in done.stdout]
    if missing:
        raise LabError(f"the cluster of KUBECONFIG lacks {', '.join(missing)}; install Tekton, KServe and Routes on it")
    say("KUBECONFIG names a cluster that has Tekton, KServe and Routes: nothing is started here")


def up(lab: Lab, names: list[str]) -> None:
    """Start the parts, each as soon as what it needs is ready. With KUBECONFIG set, only look at that cluster."""
    kubeconfig = os.environ.get("KUBECONFIG", "")
    if kubeconfig and Path(kubeconfig) != lab.kubeconfig:
        use(kubeconfig)
        return
    wanted = parts.chosen(names)
    _install(wanted)
    lab.state.mkdir(parents=True, exist_ok=True)
    secrets.make(lab)
    with concurrent.futures.ThreadPoolExecutor() as early:
        ahead = [early.submit(_prepare, lab, part) for part in wanted]
        build(lab, list(dict.fromkeys(module for part in wanted for module in part.modules)))
        for one in ahead:
            one.result()
    waiting, done = {part.name: part for part in wanted}, set[str]()
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        running: dict[concurrent.futures.Future[None], Part] = {}
        while waiting or running:
            for part in [p for p in waiting.values() if done.issuperset(n for n in p.needs)]:
                del waiting[part.name]
                running[pool.submit(_bring_up, lab, part)] = part
            finished, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in finished:
                part = running.pop(future)
                future.result()
                done.add(part.name)


def _prepare(lab: Lab, part: Part) -> None:
    try:
        part.early(lab)
    except LabError as error:
        raise LabError(f"{part.name} cannot start: {error}{_last_words(lab, part)}") from error


def _bring_up(lab: Lab, part: Part) -> None:
    began = time.monotonic()
    try:
        part.start(lab)
        why = part.ready(lab)
        while why:
            if time.monotonic() - began > part.seconds:
                raise LabError(why)
            time.sleep(POLL_SECONDS)
            why = part.ready(lab)
        part.finish(lab)
    except LabError as error:
        raise LabError(f"{part.name} did not start: {error}{_last_words(lab, part)}") from error
    say(f"{part.name} ready ({time.monotonic() - began:.1f} s)")


def _last_words(lab: Lab, part: Part, lines: int = 8) -> str:
    """The end of the part's log, for a person who has just seen it fail."""
    if part.log and lab.log(part.log).exists():
        tail = lab.log(part.log).read_text(errors="replace").splitlines()[-lines:]
        return f"\n  {lab.log(part.log)}:\n" + "\n".join(f"  | {line[:300]}" for line in tail)
    if part.namespace:
        pods = lab.kubectl("get", "pods", "-n", part.namespace, check=False)
        events = lab.kubectl("get", "events", "-n", part.namespace, "--sort-by=.lastTimestamp", check=False)
        tail = [*pods.splitlines(), *events.splitlines()[-lines:]]
        return "\n" + "\n".join(f"  | {line[:300]}" for line in tail)
    return ""


def down(lab: Lab) -> None:
    """Stop every part that was started, in the reverse order; a part that cannot stop does not keep the others."""
    problems = []
    for part in reversed(parts.TABLE.values()):
        try:
            part.stop(lab)
        except (LabError, OSError) as error:
            problems.append(f"{part.name}: {error}")
    for name in daemons.names(lab):
        daemons.stop(lab, name)
    if problems:
        raise LabError("; ".join(problems))
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(lab.state)


def status(lab: Lab) -> int:
    """A table of the parts: ready or why not, since when, which log. Returns 0 when the core is ready."""
    if not lab.state.exists():
        print("lab: down; `make lab` starts it")
        return 1
    complete = True
    for part in parts.TABLE.values():
        try:
            why = part.ready(lab) if lab.kubeconfig.exists() else "not started"
        except (LabError, OSError) as error:
            why = str(error).splitlines()[0][:120]
        complete = complete and (not why or not part.core)
        print(f"{part.name:<18} {why or 'ready'}")
    print(f"\n{'daemon':<24} {'pid':>7} {'MiB':>6}  {'since':<20} log")
    for name in daemons.names(lab):
        process = daemons.find(lab, name)
        since = datetime.datetime.fromtimestamp(daemons.since(lab, name)).strftime("%Y-%m-%d %H:%M:%S")
        pid, memory = (process.pid, process.rss_mib()) if process else ("ended", 0.0)
        print(f"{name:<24} {pid:>7} {memory:>6.0f}  {since:<20} {lab.log(name)}")
        if process is None:
            print(f"{'':<24} last line: {last_line(lab.log(name))}")
    return 0 if complete else 1


def exports(lab: Lab) -> str:
    """Shell exports for a person: KUBECONFIG, and on PATH kubectl, and tkn and oc once they are built."""
    folders = [str(golang.binary(lab, module, "x").parent) for module in ("kubernetes", "tkn", "oc")]
    return f"export KUBECONFIG={lab.kubeconfig}\nexport PATH={':'.join(folders)}:$PATH"
