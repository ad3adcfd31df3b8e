"""Gitea, a forge with an API and webhooks, as user `nobody` (it refuses root) on SQLite; started when asked for."""

from __future__ import annotations

import shutil
import subprocess

from lab import daemons, golang, secrets, storage
from lab.dns import external
from lab.part import NODE_IP, Lab, LabError, Part

PORT = 3001
URL = f"http://{NODE_IP}:{PORT}"
ADMIN = "isotherm"
USER = "nobody"

_SETTINGS = """\
RUN_USER = {user}
[server]
HTTP_ADDR = {address}
HTTP_PORT = {port}
ROOT_URL = {url}/
STATIC_ROOT_PATH = {static}
DISABLE_SSH = true
OFFLINE_MODE = true
[database]
DB_TYPE = sqlite3
PATH = {work}/gitea.db
[repository]
ROOT = {work}/repositories
DEFAULT_BRANCH = main
[security]
INSTALL_LOCK = true
[service]
DISABLE_REGISTRATION = true
[webhook]
ALLOWED_HOST_LIST = *
[log]
LEVEL = Warn
"""


def start(lab: Lab) -> None:
    """Gitea with an administrator; its password is in the lab's secrets."""
    work, program = lab.folder("gitea"), golang.binary(lab, "gitea", "gitea")
    lab.state.chmod(0o755)
    runnable = work / "bin" / "gitea"  # the cache may lie in a home that `nobody` cannot enter
    if not runnable.exists():
        runnable.parent.mkdir()
        shutil.copy(program, runnable)
        shutil.copytree(golang.source("gitea") / "options", work / "static" / "options", copy_function=shutil.copyfile)
        shutil.copytree(
            golang.source("gitea") / "templates", work / "static" / "templates", copy_function=shutil.copyfile
        )
        (work / "app.ini").write_text(
            _SETTINGS.format(user=USER, address=NODE_IP, port=PORT, url=URL, work=work, static=work / "static")
        )
    for path in [work, *work.rglob("*")]:
        shutil.chown(path, USER)
        if path.is_dir():
            path.chmod(0o755)
    base = ["--config", str(work / "app.ini"), "--work-path", str(work)]
    environment = {"HOME": str(work), "USER": USER, "PATH": "/usr/bin:/bin"}
    # `nobody`'s group is called nogroup, so the numbers are named.
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    if daemons.find(lab, "gitea") is None:
        account = ["--username", ADMIN, "--email", "lab@lab.internal", "--password", secrets.read(lab)["gitea"]]
        for step in (["migrate"], ["admin", "user", "create", "--admin", *account, "--must-change-password=false"]):
            command = [*user, str(runnable), *step, *base]
            done = subprocess.run(command, env=environment, cwd=work, capture_output=True, text=True, check=False)
            if done.returncode and "already exists" not in done.stdout + done.stderr:
                raise LabError(f"gitea {step[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
    daemons.start(lab, "gitea", [*user, str(runnable), "web", *base], env=environment, cwd=work)
    lab.apply(external("gitea", PORT))


def ready(lab: Lab) -> str:
    """Its health page answers."""
    daemons.require(lab, "gitea")
    return storage.http_answers(f"{URL}/api/healthz")


PART = Part(
    "gitea", start, ready, lambda lab: daemons.stop(lab, "gitea"), needs=("dns",), modules=("gitea",),
    packages={"git": "git", "setpriv": "util-linux", "cc": "gcc"}, log="gitea", core=False,
)  # fmt: skip
