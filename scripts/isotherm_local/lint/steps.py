"""Rules about what a Task runs: one step, no shell, inputs as environment variables, nothing that a pod may not do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from isotherm_local.lint.durations import seconds
from isotherm_local.lint.model import Catalog, Doc, Keys, Place, rule

REFERENCE = re.compile(r"\$\(([^()]+)\)")
SHELLS = {"sh", "bash", "ash", "dash", "zsh", "busybox", "env"}
SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|CREDENTIAL(?!S_DIR)")
FIXED_USER = {"runAsUser", "runAsGroup", "fsGroup", "supplementalGroups"}
STEP: Keys = ("spec", "steps", 0)


def upper_snake(name: str) -> str:
    """Turn a kebab-case name into that of its environment variable."""
    return name.replace("-", "_").upper()


def steps(catalog: Catalog) -> Iterator[tuple[Doc, Keys, dict[str, Any]]]:
    """Walk the steps of every Task."""
    for doc in catalog.tasks.values():
        for keys, step in doc.items("steps"):
            yield doc, keys, step


def strings(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, str]]:
    """Walk every string inside a value."""
    if isinstance(value, str):
        yield keys, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings(item, (*keys, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from strings(item, (*keys, index))


def references(value: Any) -> set[str]:
    """Collect what `$(...)` names inside a value: `params.model-name`, `tasks.train.results.run-id`."""
    return {found for _, text in strings(value) for found in REFERENCE.findall(text)}


@rule("one-step")
def one_step(catalog: Catalog) -> Iterable[Place]:
    """A Task has one step and no sidecar."""
    for doc in catalog.tasks.values():
        count = len(doc.spec.get("steps") or ())
        if count != 1 or doc.spec.get("sidecars"):
            yield (
                doc,
                ("spec", "steps"),
                f"has {count} steps and {len(doc.spec.get('sidecars') or ())} sidecars; put the logic into one program",
            )


@rule("no-script")
def no_scripts(catalog: Catalog) -> Iterable[Place]:
    """No step has a script, and no command is a shell."""
    for doc, keys, step in steps(catalog):
        if "script" in step:
            yield doc, (*keys, "script"), "has a script; move the logic into a tested program and call it by `command`"
        words = [*(step.get("command") or ()), *(step.get("args") or ())]
        if any(str(word).rsplit("/", 1)[-1] in SHELLS for word in words):
            yield doc, (*keys, "command"), "calls a shell; call the program itself"


@rule("command")
def commands(catalog: Catalog) -> Iterable[Place]:
    """A step's command is [python, -m, isotherm...], a module of the package with a main."""
    for doc, keys, step in steps(catalog):
        command = step.get("command") or []
        if command[:2] != ["python", "-m"] or len(command) != 3 or not str(command[2]).startswith("isotherm."):
            yield doc, (*keys, "command"), f"command is {command}; write [python, -m, isotherm.MODULE]"
        elif not (catalog.root / "images" / f"{command[2].replace('.', '/')}.py").exists():
            yield (
                doc,
                (*keys, "command"),
                f"module {command[2]} does not exist under images/; write it or name the right one",
            )
        if references(command):
            yield doc, (*keys, "command"), "a param decides what runs; a command is constant"


@rule("param-env")
def param_envs(catalog: Catalog) -> Iterable[Place]:
    """Every param of a Task reaches the program: a string as the environment variable of its name, an array as args."""
    for doc, keys, step in steps(catalog):
        env = {item["name"]: item.get("value") for item in step.get("env") or ()}
        args = step.get("args") or []
        for at, param in doc.items("params"):
            name = param["name"]
            if param.get("type", "string") == "string":
                if env.get(upper_snake(name)) != f"$(params.{name})":
                    yield (
                        doc,
                        at,
                        (
                            f"param {name} does not reach the program; add "
                            f"{{name: {upper_snake(name)}, value: $(params.{name})}} to env"
                        ),
                    )
            elif f"$(params.{name}[*])" not in args:
                yield doc, at, f'param {name} does not reach the program; add "$(params.{name}[*])" to args'
        declared = set(doc.by_name("params"))
        for found in sorted(references(step)):
            if found.startswith("params.") and found.split(".", 1)[1].removesuffix("[*]") not in declared:
                yield doc, keys, f"$({found}) names no param of this Task; declare it"


@rule("env-order")
def env_order(catalog: Catalog) -> Iterable[Place]:
    """Params come first in env, in the order of the params, so that no later value is expanded by the kubelet."""
    for doc, keys, step in steps(catalog):
        names = [item["name"] for item in step.get("env") or ()]
        order = [upper_snake(p["name"]) for _, p in doc.items("params") if p.get("type", "string") == "string"]
        if names[: len(order)] != order and set(order) <= set(names):
            first = next(i for i, name in enumerate(order) if names[i] != name)
            yield (
                doc,
                (*keys, "env", first),
                (
                    f"env {names[first]} stands where {order[first]} belongs; list "
                    "the params' variables first, in their order"
                ),
            )
        if len(set(names)) != len(names):
            yield doc, (*keys, "env"), "a variable is set twice; keep one"


@rule("env-names")
def env_names(catalog: Catalog) -> Iterable[Place]:
    """Workspaces reach the program as NAME_DIR and results as RESULT_NAME."""
    for doc, keys, step in steps(catalog):
        env = {item["name"]: item.get("value") for item in step.get("env") or ()}
        wanted = {f"{upper_snake(name)}_DIR": f"$(workspaces.{name}.path)" for name in doc.by_name("workspaces")}
        wanted |= {f"RESULT_{upper_snake(name)}": f"$(results.{name}.path)" for name in doc.by_name("results")}
        for name, value in wanted.items():
            if env.get(name) != value:
                yield doc, (*keys, "env"), f"{name} is not {value}; add {{name: {name}, value: {value}}}"
        known = {*wanted, *(upper_snake(name) for name in doc.by_name("params"))}
        for index, item in enumerate(step.get("env") or ()):
            if item["name"] not in known and references(item):
                yield (
                    doc,
                    (*keys, "env", index),
                    f"{item['name']} takes a value under a name that is not its own; one name for one thing",
                )


@rule("no-secret-env")
def no_secret_env(catalog: Catalog) -> Iterable[Place]:
    """No Secret and no password is in env: credentials are files in workspaces."""
    for doc, keys, step in steps(catalog):
        if "envFrom" in step:
            yield doc, (*keys, "envFrom"), "takes unnamed variables; name each one, and mount Secrets as workspaces"
        for index, item in enumerate(step.get("env") or ()):
            source = item.get("valueFrom") or {}
            if source and set(source) != {"fieldRef"}:
                yield (
                    doc,
                    (*keys, "env", index),
                    (
                        f"{item['name']} comes from {', '.join(source)}; mount a Secret as "
                        "an optional workspace, pass settings as params"
                    ),
                )
            elif SECRET_NAME.search(item["name"]):
                yield (
                    doc,
                    (*keys, "env", index),
                    f"{item['name']} looks like a secret; mount it as a file in a workspace",
                )


@rule("credentials")
def credentials(catalog: Catalog) -> Iterable[Place]:
    """Workspaces for credentials are optional, and read-only in a Task."""
    for doc in catalog.published:
        for keys, workspace in doc.items("workspaces"):
            if not workspace["name"].endswith("-credentials"):
                continue
            if workspace.get("optional") is not True:
                yield doc, keys, f"{workspace['name']} is not optional; add optional: true"
            if doc.data["kind"] == "Task" and workspace.get("readOnly") is not True:
                yield doc, keys, f"{workspace['name']} is not read-only; add readOnly: true"


@rule("security-context")
def security_contexts(catalog: Catalog) -> Iterable[Place]:
    """A step is clean under restricted-v2: no root, no escalation, all capabilities dropped, seccomp RuntimeDefault."""
    for doc, keys, step in steps(catalog):
        context = {
            **((doc.spec.get("stepTemplate") or {}).get("securityContext") or {}),
            **(step.get("securityContext") or {}),
        }
        wanted = {
            "runAsNonRoot": context.get("runAsNonRoot") is True,
            "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is False,
            "capabilities": context.get("capabilities") == {"drop": ["ALL"]},
            "seccompProfile": context.get("seccompProfile") == {"type": "RuntimeDefault"},
            "privileged": not context.get("privileged"),
        }
        for name, good in wanted.items():
            if not good:
                yield doc, keys, f"securityContext.{name} is {context.get(name)!r}; copy the block of another Task"


@rule("no-fixed-user")
def no_fixed_users(catalog: Catalog) -> Iterable[Place]:
    """Nothing names a user or group id: OpenShift assigns them."""
    for doc in [*catalog.published, *catalog.runs]:
        for keys in doc.lines:
            if keys and keys[-1] in FIXED_USER:
                yield doc, keys, f"{keys[-1]} is fixed; remove it (plain Kubernetes: overlays/components/kubernetes)"
        for _, volume in doc.items("volumes"):
            if "hostPath" in volume:
                yield doc, ("spec", "volumes"), "mounts a folder of the node; use a workspace"


@rule("resources")
def resources(catalog: Catalog) -> Iterable[Place]:
    """A step requests CPU and memory, limits memory to its request, and does not limit CPU."""
    for doc, keys, step in steps(catalog):
        given = step.get("computeResources") or {}
        requests, limits = given.get("requests") or {}, given.get("limits") or {}
        at = (*keys, "computeResources")
        for name in ("cpu", "memory"):
            if name not in requests:
                yield doc, at, f"requests no {name}; add it"
        if limits.get("memory") != requests.get("memory"):
            yield (
                doc,
                at,
                f"memory limit {limits.get('memory')} differs from request {requests.get('memory')}; make them equal",
            )
        if "cpu" in limits:
            yield doc, at, "limits CPU, which throttles; remove the limit"


@rule("step-timeout")
def step_timeouts(catalog: Catalog) -> Iterable[Place]:
    """A step has a timeout."""
    for doc, keys, step in steps(catalog):
        if seconds(step.get("timeout")) <= 0:
            yield doc, keys, "has no timeout; add one, shorter than the PipelineTask's"


@rule("rbac")
def rbac(catalog: Catalog) -> Iterable[Place]:
    """A Task has a ServiceAccount of its own name, with no more rights than its verbs, and without rights no token."""
    for name, doc in catalog.tasks.items():
        objects = catalog.rbac.get(name, [])
        accounts = [item for item in objects if item.data["kind"] == "ServiceAccount"]
        if [item.name for item in accounts] != [name]:
            yield doc, ("metadata", "name"), f"rbac.yaml has no ServiceAccount {name} of its own; add it"
            continue
        roles = [item for item in objects if item.data["kind"] == "Role"]
        if not roles and accounts[0].data.get("automountServiceAccountToken") is not False:
            yield accounts[0], (), "has no Role, so it needs no token; add automountServiceAccountToken: false"
        for item in objects:
            yield from _excess(item, name)


def _excess(item: Doc, name: str) -> Iterator[Place]:
    kind = item.data["kind"]
    if kind not in ("ServiceAccount", "Role", "RoleBinding"):
        yield item, ("kind",), f"{kind} reaches beyond the namespace or the account; use Role and RoleBinding"
    for index, granted in enumerate(item.data.get("rules") or ()):
        if any("*" in granted.get(part, ()) for part in ("apiGroups", "resources", "verbs")):
            yield item, ("rules", index), "grants a wildcard; name the verbs and resources that the program uses"
        if "secrets" in granted.get("resources", ()) and not granted.get("resourceNames"):
            yield item, ("rules", index), "grants every Secret; name the Secret, or mount it as a workspace"
    for index, subject in enumerate(item.data.get("subjects") or ()):
        if (subject.get("kind"), subject.get("name")) != ("ServiceAccount", name):
            yield item, ("subjects", index), f"binds {subject.get('name')}; bind ServiceAccount {name} only"
