"""A push to the code builds the images: the Pipeline as it is, on stand-ins for OpenShift Pipelines' own Tasks.

The stand-ins have the names, params, workspaces and results of `git-clone` and `buildah` in namespace
openshift-pipelines. The clone is real; the builder builds nothing: it gives the digest of the Containerfile.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from lab.part import CHECKOUT
from waiting import eventually

from e2e import reach
from e2e.cluster import BUILD, Space, Target
from isotherm.events import keys
from isotherm_local.events import payloads

NAMESPACE, TASKS = "isotherm-build", "openshift-pipelines"
FAMILIES = sorted(path.parent.name for path in CHECKOUT.glob("images/*/Containerfile"))
SAFE = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
CLONE = """#!/bin/sh
set -eu
git clone --quiet "$URL" "$WORKSPACE/clone"
cd "$WORKSPACE/clone"
git -c advice.detachedHead=false checkout --quiet "$REVISION"
git rev-parse HEAD | tr -d '\\n' > $(results.COMMIT.path)
mv .git * "$WORKSPACE"
printf '%s' "$URL" > $(results.URL.path)
"""
STAND_IN = """#!/bin/sh
set -eu
test -d "$WORKSPACE/$CONTEXT"
printf 'sha256:%s' "$(sha256sum "$WORKSPACE/$DOCKERFILE" | cut -d' ' -f1)" > $(results.IMAGE_DIGEST.path)
printf '%s' "$IMAGE" > $(results.IMAGE_URL.path)
"""


def task(name: str, params: list[str], workspace: str, results: list[str], script: str) -> dict[str, Any]:
    """A stand-in: its params come as environment variables, as they do in the real ones."""
    given = [{"name": param, "value": f"$(params.{param})"} for param in params]
    environment = [*given, {"name": "WORKSPACE", "value": f"$(workspaces.{workspace}.path)"}]
    step = {
        "name": "run",
        "image": "isotherm/data:0.1.0",
        "env": environment,
        "script": script,
        "securityContext": SAFE,
    }
    spec = {
        "params": [{"name": param, "type": "string", "default": ""} for param in params],
        "workspaces": [{"name": workspace}],
        "results": [{"name": result} for result in results],
        "steps": [step],
    }
    return {"apiVersion": "tekton.dev/v1", "kind": "Task", "metadata": {"name": name}, "spec": spec}


@pytest.fixture(scope="module")
def builds(target: Target) -> Iterator[Space]:
    """overlays/build, with the catalog's own repository and a secret of this session."""
    space = Space(target, NAMESPACE)
    target.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=true")
    folder, bare = BUILD / "build-images", target.git_folder / "isotherm.git"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["rm", "-rf", str(bare)], check=True)
    subprocess.run(["git", "clone", "--quiet", "--bare", f"file://{CHECKOUT}", str(bare)], check=True)
    source = [{"op": "replace", "path": "/spec/params/3/default", "value": f"{target.git}/isotherm.git"}]
    content = {
        "resources": [os.path.relpath(CHECKOUT / "overlays/build", folder)],
        "patches": [{"target": {"kind": "TriggerTemplate"}, "patch": json.dumps(source)}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    with reach.namespace(TASKS):
        Space(target, TASKS).apply(
            [
                task("git-clone", ["URL", "REVISION"], "output", ["COMMIT", "URL"], CLONE),
                task(
                    "buildah", ["IMAGE", "DOCKERFILE", "CONTEXT", "TLS_VERIFY", "BUILD_EXTRA_ARGS"], "source",
                    ["IMAGE_URL", "IMAGE_DIGEST"], STAND_IN,
                ),
            ]
        )  # fmt: skip
        target.kubectl("apply", "-k", str(folder))
        try:
            yield space
        finally:
            kinds = "clusterrole,clusterrolebinding"
            target.kubectl("delete", kinds, f"isotherm-listeners-{NAMESPACE}", "--ignore-not-found")
            target.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def posted(door: str, request: payloads.Request) -> bool:
    """Whether the front door has taken the event; a Service whose pods are ready takes a moment to be reached."""
    url, headers = f"http://{door}:8081/git", dict(request.headers)
    try:
        answer = httpx.post(url, content=request.body, headers=headers, timeout=10)
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.ACCEPTED


def test_a_push_to_the_code_builds_every_family_and_says_its_digest(builds: Space) -> None:
    secret = secrets.token_hex(16)
    metadata = {"name": "webhook-git"}
    builds.apply([{"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"current": secret}}])
    eventually(lambda: "el-git" in builds.kubectl("get", "deployments", "-o", "name"), 60, every=1)
    for deployment in ("el-git", "event-front-door"):
        builds.kubectl("rollout", "status", f"deployment/{deployment}", "--timeout=120s")
    door = builds.get("service", "event-front-door")["spec"]["clusterIP"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    sent = {}
    for sha, file in ((secrets.token_hex(20), "docs/events.md"), (head.strip(), "images/ops/Containerfile")):
        body = payloads.changed(
            payloads.recorded("github"), [("after", sha), ("commits.0.modified:", json.dumps([file]))]
        )
        request = payloads.request("github", body, secret.encode())
        eventually(lambda request=request: posted(door, request), 20, every=1)
        sent[file] = keys.code_push("isotherm", sha)
    eventually(lambda: sent["images/ops/Containerfile"] in builds.kubectl("get", "pipelineruns", "-o", "name"), 30)
    ended = builds.wait(sent["images/ops/Containerfile"], 300)
    assert ended.succeeded, "\n".join([str(ended.condition), *(builds.log(run) for run in ended.task_runs)])
    assert ended.results["revision"] == head.strip()
    assert set(ended.results) == {"revision", *(f"{family}-digest" for family in FAMILIES)}
    for family in FAMILIES:
        shown = subprocess.check_output(["git", "show", f"HEAD:images/{family}/Containerfile"], cwd=CHECKOUT)
        assert ended.results[f"{family}-digest"] == f"sha256:{hashlib.sha256(shown).hexdigest()}"
    assert builds.kubectl("get", "pipelineruns", "-o", "name").split() == [
        f"pipelinerun.tekton.dev/{sent['images/ops/Containerfile']}"
    ]
