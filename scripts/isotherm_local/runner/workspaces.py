"""Give each workspace of a Task a folder on this machine.

persistentVolumeClaim        <state>/namespaces/<ns>/pvcs/<claim>/, made on first use, kept for ever
volumeClaimTemplate          a folder of the run, deleted with it
emptyDir                     a folder of the attempt
secret, configMap            <state>/namespaces/<ns>/{secrets,configmaps}/<name>/, one file per key; a secret's get 0600
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from isotherm.tekton import BadInput
from isotherm_local.runner import companions
from isotherm_local.runner.companions import Companion
from isotherm_local.runner.record import Namespace
from isotherm_local.runner.specs import Binding, PipelineTask
from isotherm_local.runner.substitution import Variables, apply


@dataclass(frozen=True)
class Mount:
    """A workspace in its folder; `watched` when a change by the Task is a fault that can be seen."""

    name: str
    path: Path
    claim: str
    watched: bool


@dataclass(frozen=True)
class Place:
    """Where an attempt runs: its namespace's folders, the run's folder and uid, the attempt's own folder."""

    namespace: Namespace
    run_folder: Path
    run_uid: str
    attempt: Path


def claim_name(binding: Binding, run_uid: str) -> str:
    """Name the claim that a volumeClaimTemplate makes."""
    return f"pvc-{hashlib.sha256(f'{binding.name}{run_uid}'.encode()).hexdigest()[:10]}"


def check(binding: Binding, namespace: Namespace, beside: Sequence[Companion] = ()) -> None:
    """Refuse a binding whose Secret or ConfigMap is neither here nor beside the run, or whose claim is no folder."""
    if binding.kind in ("secret", "configMap"):
        what = "Secret" if binding.kind == "secret" else "ConfigMap"
        folder = companions.folder(binding.kind, binding.target, namespace)
        made = next((one for one in beside if (one.kind, one.name) == (binding.kind, binding.target)), None)
        if made is None and ("/" in binding.target or binding.target.startswith(".") or not folder.is_dir()):
            raise binding.source.refuse(
                problem=f": {what} {binding.target} does not exist in namespace {namespace.name}",
                remedy=f"make the folder {folder} with one file per key",
            )
        for key in binding.items:
            if key not in made.keys if made else not (folder / key).is_file():
                raise binding.source.refuse(
                    binding.kind, "items", problem=f": {what} {binding.target} has no key {key}", remedy="correct it"
                )
    if binding.kind == "persistentVolumeClaim" and ("/" in binding.target or binding.target.startswith(".")):
        raise binding.source.refuse(
            "persistentVolumeClaim", "claimName", problem=f"is {binding.target!r}", remedy="give a claim's name"
        )


def check_claims(bindings: Mapping[str, Binding]) -> None:
    """Refuse a claim as two workspaces of a run: Tekton makes one affinity assistant for each claim, named after one of
    its workspaces, and a Task of the other waits for ever to be near it.
    """
    names: dict[str, str] = {}
    for name, binding in bindings.items():
        if binding.kind == "persistentVolumeClaim" and (other := names.setdefault(binding.target, name)) != name:
            raise binding.source.refuse(
                "persistentVolumeClaim",
                "claimName",
                problem=f": workspace {other} has {binding.target} as well, and on a cluster its Tasks never start",
                remedy="bind it once, and give Tasks its folders (subPath)",
            )


def check_one_claim(task: PipelineTask, bindings: Mapping[str, Binding]) -> None:
    """Refuse a Task of two volumes, as Tekton does under `coschedule: workspaces`, its default (affinity assistant)."""
    bound = [bindings[outer] for outer, _ in task.workspaces.values() if outer in bindings]
    claims = {one.target or one.name for one in bound if one.kind in ("persistentVolumeClaim", "volumeClaimTemplate")}
    if len(claims) > 1:
        raise task.source.refuse(
            "workspaces",
            problem=f": more than one PersistentVolumeClaim is bound ({', '.join(sorted(claims))})",
            remedy="give folders (subPath) of one claim: Tekton's affinity assistant lets a Task have one",
        )


def check_read_only(task: PipelineTask, bindings: Mapping[str, Binding]) -> None:
    """Refuse a readOnly workspace in a folder that the same Task may write: only a mount can tell them apart."""
    places = {
        name: (bindings[outer], PurePosixPath(bindings[outer].sub_path, inner))
        for name, (outer, inner) in task.workspaces.items()
        if outer in bindings
    }
    for name, (binding, path) in places.items():
        if not task.task.workspaces[name].read_only or binding.kind == "emptyDir":
            continue
        for other, (another, beside) in places.items():
            same = (binding.kind, binding.target or binding.name) == (another.kind, another.target or another.name)
            inside = path.is_relative_to(beside) or beside.is_relative_to(path)
            if same and inside and not task.task.workspaces[other].read_only:
                raise task.source.refuse(
                    "workspaces",
                    problem=f": {name} is readOnly in a folder that the Task may write as {other}",
                    remedy="give them different subPaths: a process cannot mount",
                )


def _root(binding: Binding, place: Place) -> tuple[Path, str]:
    if binding.kind == "persistentVolumeClaim":
        return place.namespace.claims / binding.target, binding.target
    if binding.kind == "volumeClaimTemplate":
        name = claim_name(binding, place.run_uid)
        return place.run_folder / "claims" / name, name
    if binding.kind == "emptyDir":
        return place.attempt / "scratch" / "workspaces" / binding.name, ""
    folder = companions.folder(binding.kind, binding.target, place.namespace)
    if not binding.items:
        return folder, ""
    chosen = place.attempt / "scratch" / "workspaces" / binding.name
    for key, path in binding.items.items():
        (chosen / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / key, chosen / path)
    return chosen, ""


def sub_path(binding: Binding, inner: str, variables: Mapping[str, str]) -> str:
    """Join the run's subPath and the PipelineTask's, substituted; as the kubelet, refuse one that leaves the volume."""
    parts = [apply(part, variables) for part in (binding.sub_path, inner) if part]
    joined = str(PurePosixPath(*parts)) if parts else ""
    if "$(" in joined or PurePosixPath(joined).is_absolute() or ".." in PurePosixPath(joined).parts:
        raise binding.source.refuse(
            "subPath", problem=f": {joined!r} is not a path inside the volume", remedy="give a relative path without .."
        )
    return joined


def bind(
    task: PipelineTask,
    bindings: Mapping[str, Binding],
    variables: Mapping[str, str],
    place: Place,
    written: frozenset[str],
) -> dict[str, Mount]:
    """Make the folders of a Task's workspaces; `written` names the run's workspaces that some Task may write."""
    mounts = {}
    for name, (outer, inner) in task.workspaces.items():
        binding = bindings.get(outer)
        if binding is None:
            continue
        root, claim = _root(binding, place)
        path = root / sub_path(binding, inner, variables)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(
                f"workspace {name}: {path} cannot be made ({error.strerror})",
                remedy="check the state folder's disk and rights",
            ) from error
        if not path.resolve().is_relative_to(root.resolve()):
            raise binding.source.refuse(
                "subPath", problem=f": {path} leads out of its volume through a link", remedy="remove the link"
            )
        if binding.kind == "secret":
            for file in path.rglob("*"):
                if file.is_file():
                    file.chmod(stat.S_IRUSR | stat.S_IWUSR)
        # A folder that another Task may write meanwhile does not tell who changed it.
        watched = binding.kind in ("secret", "configMap") or (
            task.task.workspaces[name].read_only and outer not in written
        )
        mounts[name] = Mount(name, path.resolve(), claim, watched)
    return mounts


def variables(task: PipelineTask, mounts: Mapping[str, Mount]) -> Variables:
    """Make `workspaces.W.path`, `.bound`, `.claim` and `.volume`."""
    strings = {}
    for name in task.task.workspaces:
        mount = mounts.get(name)
        strings[f"workspaces.{name}.bound"] = "true" if mount else "false"
        strings[f"workspaces.{name}.path"] = str(mount.path) if mount else ""
        strings[f"workspaces.{name}.claim"] = mount.claim if mount else ""
        strings[f"workspaces.{name}.volume"] = f"ws-{hashlib.sha256(name.encode()).hexdigest()[:5]}" if mount else ""
    return Variables(strings)


def snapshot(path: Path) -> dict[str, tuple[int, int]]:
    """List the files below a folder with size and time of change, to see later whether any changed."""
    found = {}
    for folder, _, names in os.walk(path):
        for name in names:
            entry = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)] = (entry.st_size, entry.st_mtime_ns)
    return found
