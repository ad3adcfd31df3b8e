"""Make the environments that the local target needs, each from its own lock with hashes.

Usage: python3 scripts/setup.py [demo|lab|test|lock|check]   (default: demo)

Runs on a bare Python 3.11 to 3.13 with nothing installed: it makes .venv/tools with `uv` from a hash-locked file,
then one environment per
image family, so that a Task's step runs locally with exactly the packages of its image. An environment is kept while
its lock is unchanged.
`check` only looks for what cannot be installed from an index (Python's version, HAProxy, git) and says how to get it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENVS = ROOT / ".venv"
WHEELS = ROOT.parent / "shared" / "wheels"
SYSTEM_PACKAGES = {"haproxy": "haproxy", "git": "git"}


def has_cpu_wheel() -> bool:
    """Tell whether the folder of wheels beside the checkout has torch's CPU build for this interpreter and
    processor.
    """
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return any(WHEELS.glob(f"torch-*+cpu-{tag}-{tag}-*_{platform.machine()}.whl"))


def locks(cpu: bool) -> dict[str, Path]:
    """Name each environment's lock file;

    torch's CPU wheel and the index's own wheel have different hashes, hence two locks.
    """
    torch = "cpu" if cpu else "cuda"
    return {
        "data": ROOT / "images/data/requirements.txt",
        "pinn-trainer": ROOT / f"images/pinn-trainer/requirements-{torch}.txt",
        "ops": ROOT / "images/ops/requirements.txt",
        "pinn-api": ROOT / "images/pinn-api/requirements.txt",
        "local": ROOT / "scripts/locks/local.txt",
        "dev": ROOT / f"scripts/locks/dev-{torch}.txt",
    }


WANTED = {
    "demo": ["data", "pinn-trainer", "ops", "pinn-api", "local"],
    "lab": ["dev"],
    "test": ["data", "pinn-trainer", "ops", "pinn-api", "local", "dev"],
}


def fail(what: str, remedy: str) -> None:
    """End with one line that says what is wrong and what to do."""
    raise SystemExit(f"setup: {what}; {remedy}")


def check_python() -> None:
    """Refuse an interpreter that the locks do not cover."""
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        fail(
            f"Python {platform.python_version()} is not supported",
            "use Python 3.11, 3.12 or 3.13 (make PYTHON=python3.12 demo)",
        )
    if shutil.disk_usage(ROOT).free < 6 * 2**30:
        fail(f"less than 6 GiB free under {ROOT}", "free some space: the environments take about 4 GiB")


def install_command() -> list[str] | None:
    """Name the package manager's command for what is missing, or None where no known manager is there."""
    managers = {
        "apt-get": ["apt-get", "install", "-y", "-qq"],
        "dnf": ["dnf", "install", "-y", "-q"],
        "microdnf": ["microdnf", "install", "-y"],
        "zypper": ["zypper", "-n", "install"],
    }
    return next((command for name, command in managers.items() if shutil.which(name)), None)


def find_program(name: str) -> str | None:
    """Find a program on PATH or in the sbin folders, which an ordinary user's PATH often lacks."""
    return shutil.which(
        name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    )


def check_system(install: bool) -> None:
    """Find HAProxy and git; install what is missing as root, else stop with the command to run."""
    missing = [package for program, package in SYSTEM_PACKAGES.items() if not find_program(program)]
    if not missing:
        return
    command = install_command()
    if command is None:
        fail(
            f"{' and '.join(missing)} not found",
            f"install {' '.join(missing)} with your system's package manager, then run this again",
        )
    assert command is not None  # noqa: S101 (fail() does not return)
    shown = " ".join(["sudo", *command[:2], *missing])
    if not install or os.geteuid() != 0:
        fail(f"{' and '.join(missing)} not found and this user may not install packages", f"run: {shown}")
    print(f"setup: installing {' '.join(missing)} with {command[0]}", flush=True)
    if command[0] == "apt-get":
        subprocess.run(["apt-get", "update", "-qq"], check=False)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    if subprocess.run([*command, *missing], env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
        fail(f"{command[0]} could not install {' '.join(missing)}", f"run: {shown}")


def pip_setting(name: str) -> str:
    """Read one of pip's own settings (an organisation's index or certificates), which uv does not read by itself."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", f"global.{name}"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def uv_environment() -> dict[str, str]:
    """Carry pip's index and certificate settings over to uv."""
    env = dict(os.environ)
    for variable, pip_variable, setting in (
        ("UV_DEFAULT_INDEX", "PIP_INDEX_URL", "index-url"),
        ("SSL_CERT_FILE", "PIP_CERT", "cert"),
    ):
        value = env.get(variable) or env.get(pip_variable) or pip_setting(setting)
        if value:
            env[variable] = value
    env.setdefault("UV_HTTP_TIMEOUT", "180")
    # Without bytecode the first import of torch and MLflow takes ten seconds, in the middle of somebody's first run.
    env.setdefault("UV_COMPILE_BYTECODE", "1")
    return env


def tools() -> Path:
    """Make .venv/tools with the locked uv; return its uv."""
    uv = VENVS / "tools/bin/uv"
    lock = ROOT / "scripts/locks/tools.txt"
    if stamp_is_current("tools", lock) and uv.exists():
        return uv
    step = [sys.executable, "-m", "venv", "--clear", str(VENVS / "tools")]
    if subprocess.run(step, check=False).returncode:
        fail("python's venv module does not work", "install it (Debian: apt-get install python3-venv)")
    pip = [
        str(VENVS / "tools/bin/python"),
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "--require-hashes",
        "-r",
        str(lock),
    ]
    if subprocess.run(pip, check=False).returncode:
        fail("pip could not install uv", "check the network and pip's index settings (pip config list)")
    write_stamp("tools", lock)
    return uv


def digest(lock: Path) -> str:
    """Hash what decides an environment: its lock and the interpreter."""
    return hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()


def stamp_is_current(name: str, lock: Path) -> bool:
    """Tell whether environment `name` was completed from this very lock."""
    stamp = VENVS / name / "lock.sha256"
    return stamp.exists() and stamp.read_text() == digest(lock)


def write_stamp(name: str, lock: Path) -> None:
    """Mark environment `name` complete; written last, so that a killed set-up is redone."""
    (VENVS / name / "lock.sha256").write_text(digest(lock))


def environment(uv: Path, name: str, lock: Path) -> None:
    """Make environment `name` from `lock`, with this project's packages on its path."""
    if stamp_is_current(name, lock):
        return
    began = time.monotonic()
    env, venv = uv_environment(), VENVS / name
    env["VIRTUAL_ENV"] = str(venv)
    links = ["--find-links", str(WHEELS)] if WHEELS.is_dir() else []
    print(f"setup: {name:<13} from {lock.relative_to(ROOT)} ...", end="", flush=True)
    steps = [
        [str(uv), "venv", "-q", "--clear", "--python", sys.executable, str(venv)],
        [str(uv), "pip", "sync", "-q", "--require-hashes", *links, str(lock)],
    ]
    for step in steps:
        done = subprocess.run(step, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            print()
            sys.stderr.write(done.stderr)
            fail(
                f"environment {name} could not be made from {lock.relative_to(ROOT)}",
                "check the network and the index settings above, then run this again",
            )
    packages = venv / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    # A path file instead of an install: the steps run the checkout itself, as the image runs its copy through
    # PYTHONPATH.
    folders = [ROOT / "images"] + ([ROOT / "scripts"] if name in ("local", "dev") else [])
    (packages / "isotherm.pth").write_text("".join(f"{folder}\n" for folder in folders))
    write_stamp(name, lock)
    print(f" {time.monotonic() - began:.0f} s", flush=True)


def schema_checks() -> None:
    """Build the catalog's Go programs where Go is there (once per version, into the user's cache)."""
    if not shutil.which("go"):
        print(
            "setup: go not found: the strict schema checks will be skipped, and listeners cannot be asked offline",
            flush=True,
        )
        return
    began = time.monotonic()
    build = "from pathlib import Path; from isotherm_local.lint import gotools as g; "
    build += "module = Path('scripts/schemas').resolve(); g.validator(module); g.kustomize(module); "
    build += "g.replayer(module.with_name('triggers'))"
    done = subprocess.run([str(VENVS / "dev/bin/python"), "-c", build], cwd=ROOT, check=False, stderr=subprocess.PIPE)
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        print(f"setup: the schema checks could not be built ({last}); they will be skipped", flush=True)
    elif time.monotonic() - began > 1:
        print(f"setup: schema checks built in {time.monotonic() - began:.0f} s", flush=True)


def relock(uv: Path) -> None:
    """Resolve pyproject.toml into every lock again."""
    base = [
        str(uv),
        "pip",
        "compile",
        "--universal",
        "--python-version",
        "3.11",
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "-q",
    ]
    base += ["--no-emit-find-links", "--no-emit-index-url", "--upgrade"]
    cpu_only = VENVS / "cpu-override.txt"
    cpu_only.write_text("torch==2.13.0+cpu\n")
    for cpu in (False, True):
        for name, lock in locks(cpu).items():
            if cpu and "cpu" not in lock.name:
                continue
            extra = ["--find-links", str(WHEELS), "--override", str(cpu_only)] if cpu else []
            print(f"setup: {lock.relative_to(ROOT)}", flush=True)
            subprocess.run(
                [*base, *extra, "pyproject.toml", "--extra", name, "-o", str(lock)],
                cwd=ROOT,
                env=uv_environment(),
                check=True,
            )
    source = "uv\n"
    subprocess.run(
        [*base, "-", "-o", str(ROOT / "scripts/locks/tools.txt")],
        input=source,
        text=True,
        cwd=ROOT,
        env=uv_environment(),
        check=True,
    )


def main() -> int:
    """Check the machine first (seconds, before any download), then make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="demo", choices=[*WANTED, "lock", "check"])
    what = parser.parse_args().what
    check_python()
    check_system(install=what != "check")
    if what == "check":
        return 0
    VENVS.mkdir(exist_ok=True)
    uv = tools()
    if what == "lock":
        relock(uv)
        return 0
    table = locks(has_cpu_wheel())
    for name in WANTED[what]:
        environment(uv, name, table[name])
    if what == "test":
        schema_checks()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
