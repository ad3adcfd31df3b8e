"""Check the steps of a Task before anything runs: their references, mounts, folders and programs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from isotherm_local.runner import checks, images, script
from isotherm_local.runner.specs import PipelineSpec, PipelineTask, Step
from isotherm_local.runner.substitution import references

_RESULT_PATH = re.compile(r"""results(?:\.([^\[\]]+?)|\["([^"]+)"\]|\['([^']+)'\])\.path""")
_FILE_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_TASK_CONTEXT = {"context.taskRun.name", "context.taskRun.namespace", "context.taskRun.uid", "context.task.name"}
_STANDING = ("/workspace", "/tekton/home", "/tekton/steps", "/tekton/results")
_OF_A_POD = re.compile(r"(?<![\w./)}-])/tekton/(?!home\b|steps\b|results\b)[\w-]*")
# What Tekton's webhook knows in a script; any other $(...) there is the shell's own.
_IN_SCRIPT = re.compile(
    r"(params|inputs\.params|results|workspaces|steps|step|artifacts|credentials|context\.(task|taskRun))[.\[]"
)
# What Tekton's webhook takes for a reference, to the next `)`, and refuses as an unknown one: nothing that holds a `$`
# or `(` is ever replaced. Results it looks for in scripts; params not where an embedded spec has them from outside.
_BROKEN = re.compile(r"""\$\((params|results|context\.task(?:Run)?)(?:\.|\["|\[')[^)\n]*?[$(][^)\n]*\)""")


def _in_task(reference: str, task: PipelineTask, pipeline: PipelineSpec, whole: bool) -> str:
    spec, outer = task.task, pipeline.params if task.embedded else {}
    reference = reference.removeprefix("inputs.")
    if reference.startswith("params"):
        return checks.param(reference, {**outer, **spec.params, **task.implied}, whole)
    workspace = re.fullmatch(r"workspaces\.([^.]+)\.(path|bound|claim|volume)", reference)
    if workspace:
        known = workspace[1] in spec.workspaces
        return "" if known else f"names workspace {workspace[1]}, which the Task does not declare"
    path = _RESULT_PATH.fullmatch(reference)
    if path:
        name = path[1] or path[2] or path[3]
        return "" if name in spec.results else f"names result {name}, which the Task does not declare"
    code = re.fullmatch(r"steps\.step-(.+)\.exitCode\.path", reference)
    if code:
        known = any(step.name == code[1] for step in spec.steps)
        return "" if known else f"names step {code[1]}, which the Task does not have"
    if reference in _TASK_CONTEXT:
        return ""
    if task.embedded and reference in checks.PIPELINE_CONTEXT | {"context.task.retry-count"}:
        return ""
    if task.embedded and reference.startswith("tasks."):
        return checks.in_pipeline(reference, pipeline, task, whole)
    return "is not known to the local runner here"


def texts_of(step: Step) -> Iterator[tuple[tuple[str, ...], str, bool]]:
    """Yield each text of a step that may hold references, its place, and whether it may be a whole array."""
    yield from ((("command",), item, True) for item in step.command)
    yield from ((("args",), item, True) for item in step.args)
    yield from ((("env", name), value, False) for name, value in step.env)
    yield ("workingDir",), step.working_dir, False
    yield ("image",), step.image, False
    yield ("onError",), step.on_error, False
    yield ("script",), step.script, False


def task_body(task: PipelineTask, pipeline: PipelineSpec) -> None:
    """Check a Task's own references, and that a step names each volume mount so that the folder can take its place."""
    spec = task.task
    for kind, names in (("results", spec.results), ("workspaces", spec.workspaces), ("volumes", spec.volumes)):
        for name in names:
            if not _FILE_NAME.fullmatch(name):
                raise spec.source.refuse(
                    kind, problem=f": {name!r} is not a valid name", remedy="use letters, digits, dashes, dots"
                )
    for step in spec.steps:
        _references(step, task, pipeline)
        _paths(step)


def _references(step: Step, task: PipelineTask, pipeline: PipelineSpec) -> None:
    for path, text, items in texts_of(step):
        spared = {"params"} if task.embedded else set()
        spared |= set() if path == ("script",) else {"results"}
        broken = next((one[0] for one in _BROKEN.finditer(text) if one[1] not in spared), "")
        if broken:
            problem = f": {broken} has a $ or ( inside, which Tekton's webhook refuses"
            raise step.source.refuse(*path, problem=problem, remedy="write the whole name")
        for reference in references(text):
            if path == ("script",) and not _IN_SCRIPT.match(reference) and not _given(reference, task):
                continue
            problem = _in_task(reference, task, pipeline, whole=items and text == f"$({reference})")
            if problem:
                raise step.source.refuse(*path, problem=f": $({reference}) {problem}", remedy="correct the reference")


def _given(reference: str, task: PipelineTask) -> bool:
    return task.embedded and bool(re.match(r"tasks\.[^.]+\.(results|inputs|outputs)\b", reference))


def _paths(step: Step) -> None:
    """Check the paths that a step names: a process has this machine's root folder, not an image's."""
    known = {*_STANDING, *step.mounts}
    for path, text, _ in texts_of(step):
        strange = _OF_A_POD.search(text)
        if strange and not any(re.match(mounted(mount), strange[0]) for mount in step.mounts):
            raise step.source.refuse(
                *path, problem=f"names {strange[0]}, which only a pod has", remedy="leave it to a cluster"
            )
    folder = PurePosixPath(step.working_dir)
    if folder.is_absolute() and not any(folder.is_relative_to(one) for one in known):
        raise step.source.refuse(
            "workingDir",
            problem=f"is {step.working_dir}, a folder of the image, which is not here",
            remedy="use a workspace's path, a mount or a relative path",
        )
    for mount in step.mounts:
        if not any(re.search(mounted(mount), text) for _, text, _ in texts_of(step)):
            raise step.source.refuse(
                "volumeMounts",
                problem=f": nothing in the step names {mount}, and a process cannot mount",
                remedy="pass the path in an env variable or argument (TMPDIR, HOME, --cache=...)",
            )


def mounted(mount: str) -> str:
    """Make the pattern that finds a mountPath in a text as a path or the start of one."""
    return rf"(?<![\w./)}}-]){re.escape(mount)}(?![\w.-])"


def programs(pipeline: PipelineSpec, root: Path, foreign: bool) -> None:
    """Check that each step's image has a stand-in and its program or interpreter is there."""
    for step in (step for task in pipeline.tasks for step in task.task.steps):
        if references(step.image) and foreign:
            continue
        environment = images.environment_of(step.image, step.source, root, foreign)
        word = step.command[0] if step.command else (script.interpreter(step.script) or [""])[0]
        if word and not references(word) and images.program(word, environment) is None:
            what = ("command", "program") if step.command else ("script", "interpreter")
            raise step.source.refuse(
                what[0], problem=f": {what[1]} {word!r} is not on PATH", remedy="install it, or use python"
            )
