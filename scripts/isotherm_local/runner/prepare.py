"""Make a step ready to run: folders for a container's paths, values for references, its program found."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from isotherm.tekton import BadInput
from isotherm_local.runner import images, script
from isotherm_local.runner.images import Environment
from isotherm_local.runner.process import Ready
from isotherm_local.runner.specs import Step
from isotherm_local.runner.step_checks import mounted
from isotherm_local.runner.substitution import Variables, apply, apply_list, expand, references


@dataclass(frozen=True)
class Scene:
    """Where a step finds itself: the attempt's scratch and results folders, and what its images are here."""

    scratch: Path
    results: Path
    root: Path
    foreign: bool
    kubeconfig: Path
    git_sha: str

    @property
    def standing(self) -> dict[str, Path]:
        """Map the paths that every step of a pod has to their folders here."""
        return {
            "/workspace": self.scratch / "workspace",
            "/tekton/home": self.scratch / "home",
            "/tekton/steps": self.scratch / "steps",
            "/tekton/results": self.results,
        }

    def exit_code(self, step: Step) -> Path:
        """Name the file that holds a step's exit code once it is done."""
        return self.scratch / "steps" / f"step-{step.name}" / "exitCode"


Items = Callable[[Sequence[str], Mapping[str, str], str], list[str]]


def ready(step: Step, passes: Sequence[Variables], scene: Scene, mounted_at: Mapping[str, Path]) -> Ready:
    """Substitute a step's texts, expand as the kubelet does, and find its program; workspaces are `mounted_at` paths.

    Raises `BadInput` where a value would be altered: by the kubelet (`$$`, `$(NAME)`) or by a later pass of Tekton.
    """
    folders = _folders(step, scene, mounted_at)
    items = _substitution(step, passes, folders)
    own: dict[str, str] = {}
    for name, value in step.env:
        own[name] = items([value], own, f"env {name}")[0]
    image = items([step.image], {}, "image")[0]
    environment = images.environment_of(image, step.source, scene.root, scene.foreign)
    args = items(step.args, own, "args")
    start = _script(step, passes, folders, environment, scene) if step.script else []
    if not start:
        word, *rest = items(step.command, own, "command")
        found = images.program(word, environment)
        if found is None:
            raise step.source.refuse(
                "command", problem=f": program {word!r} is not on PATH", remedy="install it, or use python"
            )
        start = [found, *rest]
    given = images.variables(scene.root, environment, scene.scratch / "home", scene.kubeconfig, scene.git_sha)
    folder = scene.scratch / "workspace" / items([step.working_dir], own, "workingDir")[0]
    action = items([step.on_error], {}, "onError")[0]
    if action not in ("", "continue", "stopAndFail"):
        raise step.source.refuse("onError", problem=f"is {action!r}", remedy="use continue or stopAndFail")
    return Ready([*start, *args], {**given, **own}, folder, action == "continue")


def _folders(step: Step, scene: Scene, mounted_at: Mapping[str, Path]) -> dict[str, str]:
    """Map each path that the step may name to its folder, volumes before workspaces before what every pod has."""
    volumes = {mount: scene.scratch / "volumes" / name for mount, name in step.mounts.items()}
    folders = {**scene.standing, **mounted_at, **volumes}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return {mount: str(folder) for mount, folder in sorted(folders.items(), key=lambda item: -len(item[0]))}


def with_folders(text: str, folders: Mapping[str, str]) -> str:
    """Put real folders in place of a container's paths, in one pass: what is put in is not read again."""
    if not folders:
        return text
    pattern = re.compile("|".join(f"(?P<p{index}>{mounted(mount)})" for index, mount in enumerate(folders)))
    values = list(folders.values())
    return pattern.sub(lambda match: values[int((match.lastgroup or "p0")[1:])], text)


def _substitution(step: Step, passes: Sequence[Variables], folders: Mapping[str, str]) -> Items:
    once = Variables()
    for variables in passes:
        once = once | variables

    def items(texts: Sequence[str], env: Mapping[str, str], place: str) -> list[str]:
        texts = [with_folders(text, folders) for text in texts]
        for name in (name for text in texts for name in references(text)):
            if name not in once.strings and name.removesuffix("[*]") not in once.arrays:
                raise BadInput(
                    f"{step.source.at()}: $({name}) in {place} has no value",
                    remedy="look at the length of the array or the object's keys",
                )
        done = list(texts)
        for variables in passes:
            done = apply_list(done, variables)
        done = [expand(text, env) for text in done]
        # The author may use the kubelet's expansion; what a value brings along must arrive as it is.
        if done != apply_list([expand(text, env) for text in texts], once):
            raise BadInput(
                f"{step.source.at()}: a value in {place} contains $$ or $(...)",
                remedy="change it: the kubelet or Tekton would alter it on a cluster",
            )
        return done

    return items


def _script(
    step: Step, passes: Sequence[Variables], folders: Mapping[str, str], environment: Environment, scene: Scene
) -> list[str]:
    """Write the step's script; the kubelet does not expand it, and what Tekton does not know is the shell's."""
    text = with_folders(step.script, folders)
    for variables in passes:
        text = apply(text, variables.strings)
    absent = script.missing(text, environment)
    if absent:
        raise step.source.refuse(
            "script", problem=f": interpreter {absent!r} is not on PATH", remedy="install it, or use another"
        )
    return script.command(text, environment, scene.scratch / "scripts" / step.name)
