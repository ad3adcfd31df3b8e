"""One revision of a data repository, read with git and never checked out.

Input   a git URL or path, a revision, optionally a folder of credentials (a Secret of type basic-auth or ssh-auth)
Output  `Snapshot`: the commit, its files and their content
Safety  no working tree, hence no hook, filter, submodule or symlink is ever followed; a tree with a symlink is refused
Errors  `BadInput` (URL, revision, credentials), `Refused` (symlink), `Unavailable` (worth another try)
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from isotherm import tekton

REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+@-]{0,199}")
SCP_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9.-]*:[^:\s-][^:\s]*")
SCHEMES = ("https", "ssh", "file", "http")
TIMEOUT_SECONDS = 300
BLOB_LIMIT_BYTES = 1024 * 1024
SYMLINK = "120000"
TARGET = "refs/isotherm/target"

_PASSED_ON = re.compile(
    r"(?i)(path|lang|tz|tmpdir|pythonpath|(https?|no|all)_proxy|ssl_cert_(file|dir)|requests_ca_bundle|git_ssl_cainfo|aws_.+)"
)
_UNKNOWN_REVISION = (
    "couldn't find remote ref",
    "no such remote ref",
    "not our ref",
    "unadvertised object",
    "invalid refspec",
)
_NO_REPOSITORY = ("does not appear to be a git repository", "not found", "does not exist", "not a git repository")
_NO_ACCESS = (
    "authentication failed",
    "could not read username",
    "could not read password",
    "permission denied",
    "host key verification",
)


@dataclass(frozen=True)
class Snapshot:
    """A commit in a bare clone: `files` maps each path of its tree to (mode, object id)."""

    clone: Path
    environment: Mapping[str, str]
    commit: str
    files: Mapping[str, tuple[str, str]]

    def read(self, path: str) -> str:
        """Read a small text file of the commit.

        Raises `BadInput` for a file over 1 MiB or one that is not UTF-8.
        """
        object_id = self.files[path][1]
        size = int(git(self.clone, self.environment, "cat-file", "-s", object_id))
        if size > BLOB_LIMIT_BYTES:
            raise tekton.BadInput(
                f"{path} in the data repository has {size} bytes", remedy="it should be a small text file"
            )
        try:
            return git(self.clone, self.environment, "cat-file", "blob", object_id)
        except UnicodeDecodeError:
            raise tekton.BadInput(f"{path} in the data repository is not UTF-8", remedy="restore it") from None


def clean_environment(home: Path) -> dict[str, str]:
    """Return an environment for git and DVC: an empty HOME, no user or system configuration, proxies and CAs kept."""
    kept = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    return kept | {
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "LANGUAGE": "",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "https:ssh:file",
        "DVC_NO_ANALYTICS": "1",
    }


def check_url(url: str, *, with_credentials: bool = False) -> str:
    """Return the URL or path to give to git.

    Raises `BadInput` for an option, a transport helper, a scheme but https, ssh, file and http, a password in the URL,
    or credentials that http would send in the clear.
    """
    remedy = "give http(s)://..., ssh://..., user@host:path, file:///... or the path of a folder, and no credentials"
    if not url or url.startswith("-") or "::" in url or not url.isprintable():
        raise tekton.BadInput(f"param repo-url is {url[:80]!r}", remedy=remedy)
    if "://" in url:
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or parts.netloc.startswith("-"):
            raise tekton.BadInput(f"param repo-url has the scheme {parts.scheme!r}", remedy=remedy)
        if parts.password is not None or (parts.scheme in ("https", "http") and parts.username is not None):
            what = "param repo-url holds credentials, which everyone who sees the PipelineRun can read"
            raise tekton.BadInput(what, remedy="put them into workspace git-credentials")
        if parts.scheme == "http" and with_credentials:
            what = "param repo-url begins with http://, which would send workspace git-credentials in the clear"
            raise tekton.BadInput(what, remedy="give the https:// URL, or bind no git-credentials")
        return url
    if SCP_FORM.fullmatch(url):
        return url
    if not Path(url).is_dir():
        raise tekton.BadInput(f"param repo-url is {url[:200]!r}, not a folder here", remedy=remedy)
    return str(Path(url).resolve())


def check_revision(revision: str) -> str:
    """Return the revision: a branch, a tag or a full commit id.

    Raises `BadInput` for anything git could take for an option or a refspec.
    """
    if not REVISION.fullmatch(revision) or ".." in revision or "@{" in revision or revision.endswith((".lock", "/")):
        what = f"param revision is {revision[:80]!r}"
        raise tekton.BadInput(what, remedy="give a branch, a tag or a commit id of 40 hexadecimal digits")
    return revision


def fetch(url: str, revision: str, scratch: Path, credentials: Path | None = None) -> Snapshot:
    """Fetch one revision without its history into a bare clone under `scratch` (a private, temporary folder)."""
    url, revision = check_url(url, with_credentials=credentials is not None), check_revision(revision)
    home, clone = scratch / "home", scratch / "repository.git"
    environment = prepare(home, url, credentials)
    shutil.rmtree(clone, ignore_errors=True)  # a retry begins afresh
    clone.mkdir()
    git(clone, environment, "init", "--quiet", "--bare")
    limits = ["--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules"]
    try:
        git(clone, environment, "fetch", *limits, "--", url, f"{revision}:{TARGET}")
        commit = git(clone, environment, "rev-parse", "--verify", f"{TARGET}^{{commit}}").strip()
    except subprocess.CalledProcessError as error:
        raise explain(error.stderr or "", url, revision) from error
    files = _tree(git(clone, environment, "ls-tree", "-r", "-z", "--full-tree", commit))
    links = sorted(path for path, (mode, _) in files.items() if mode == SYMLINK)
    if links:
        what = f"the data repository holds a symlink, {links[0]!r}, at {commit[:12]}"
        raise tekton.Refused(what, remedy="replace it by the file itself: a link can lead out of the workspace")
    return Snapshot(clone, environment, commit, files)


def prepare(home: Path, url: str, credentials: Path | None = None) -> dict[str, str]:
    """Make a private HOME for git and return the environment in which it may talk to `url` (checked before)."""
    home.mkdir(exist_ok=True)
    environment = clean_environment(home)
    if urlsplit(url).scheme == "http":  # only then, so that no https server can redirect to it
        environment["GIT_ALLOW_PROTOCOL"] += ":http"
    return environment | _configure(home, url, credentials)


def _tree(listing: str) -> dict[str, tuple[str, str]]:
    files = {}
    for entry in filter(None, listing.split("\0")):
        description, path = entry.split("\t", 1)
        mode, _, object_id = description.split(" ")
        files[path] = (mode, object_id)
    return files


def git(clone: Path, environment: Mapping[str, str], *arguments: str) -> str:
    """Run git in a clone and return what it printed.

    Raises `subprocess.CalledProcessError` with its stderr as text; `Unavailable` where it takes too long.
    """
    command = ["git", *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=clone,
            env=environment,
            capture_output=True,
            check=True,
            timeout=TIMEOUT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise tekton.BadInput("git is not installed", remedy="install git, or use the image isotherm/data") from None
    except subprocess.TimeoutExpired:
        what = f"git {arguments[0]} took more than {TIMEOUT_SECONDS} s"
        raise tekton.Unavailable(what, remedy="check the network and the size of the repository") from None
    except subprocess.CalledProcessError as error:
        error.stderr = error.stderr.decode("utf-8", "replace")
        raise
    return done.stdout.decode("utf-8")


def _configure(home: Path, url: str, credentials: Path | None) -> dict[str, str]:
    """Write git's only configuration file; return the variables that ssh needs."""
    settings = [
        "[core]\n\thooksPath = /dev/null\n\tsymlinks = false",
        "[safe]\n\tdirectory = *",  # a repository on a volume belongs to another UID; nothing of it is run
        "[http]\n\tlowSpeedLimit = 1000\n\tlowSpeedTime = 60",
    ]
    variables = {}
    if credentials and (credentials / "password").is_file():
        parts = urlsplit(url)
        user, password = ((credentials / key).read_text().strip() for key in ("username", "password"))
        store = home / "git-credentials"
        _private(store, f"{parts.scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{parts.netloc}\n")
        settings.append(f'[credential]\n\thelper = "store --file={store}"')
    if credentials and (credentials / "ssh-privatekey").is_file():
        # ssh refuses a key that others may read, and a mounted Secret is such a file: hence the copy.
        key, known = home / "key", credentials / "known_hosts"
        _private(key, (credentials / "ssh-privatekey").read_text().rstrip() + "\n")
        hosts = f"-o UserKnownHostsFile={known}" if known.is_file() else ""
        strict = f"-F /dev/null -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes -o BatchMode=yes {hosts}"
        variables["GIT_SSH_COMMAND"] = f"ssh -i {key} {strict}"
    (home / "gitconfig").write_text("\n".join(settings) + "\n")
    return variables


def _private(path: Path, content: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)


def explain(stderr: str, url: str, revision: str) -> Exception:
    """Choose the error for what git said when a fetch failed."""
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    text = stderr.lower()
    detail = next(
        (line for line in lines if line.lower().startswith(("fatal", "error"))), lines[-1] if lines else "no message"
    )
    if "no space left" in text:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "temporary folder of git")
    if any(sign in text for sign in _UNKNOWN_REVISION):
        what = f"revision {revision!r} is not in {url}"
        return tekton.BadInput(what, remedy="give a branch, a tag or a full commit id that was pushed there")
    if any(sign in text for sign in _NO_ACCESS):
        return tekton.BadInput(f"no access to {url} ({detail})", remedy="check workspace git-credentials")
    if any(sign in text for sign in _NO_REPOSITORY):
        return tekton.BadInput(f"{url} is not a git repository ({detail})", remedy="check param repo-url")
    return tekton.Unavailable(f"cannot fetch from {url} ({detail})", remedy="check that the git server can be reached")
