"""Which of Tekton's fields the local runner honours, accepts without effect, or refuses: one table, used and printed.

`TYPES` names every field of Task, TaskRun, Pipeline and PipelineRun (tekton.dev/v1, Tekton Pipelines 1.15).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Treatment(Enum):
    """What the local runner does with a field."""

    HONOURED = "honoured"
    INERT = "accepted without effect"
    REFUSED = "refused"


@dataclass(frozen=True)
class Field:
    """One field: how it is treated, its shape (a type of `TYPES`, `[]T` for lists of it, or a scalar) and a remark."""

    treatment: Treatment
    shape: str = "text"
    note: str = ""


def _honoured(shape: str = "text", note: str = "") -> Field:
    return Field(Treatment.HONOURED, shape, note)


def _inert(note: str = "") -> Field:
    return Field(Treatment.INERT, "any", note)


def _refused(note: str) -> Field:
    return Field(Treatment.REFUSED, "any", note)


_NO_PODS = "there are no pods here"
_NO_STEP_ACTION = "StepActions are not run here"
_BY_NAME = "only references by name are resolved here"
_NO_MOUNT = "a process cannot mount; use a workspace"
_BY_SERVER = "the API server sets it"

_IN_CONTAINER = {
    "image": _honoured(
        "text",
        "its family (the last name before the tag) picks .venv/FAMILY; registry, tag and digest have no effect; any "
        "other image is refused, or with --foreign-images host its step is a process of this machine",
    ),
    "command": _honoured("texts", "`python` is the family's own, the rest comes from PATH"),
    "args": _honoured("texts"),
    "workingDir": _honoured("text", "below /workspace, a workspace or a mount"),
    "env": _honoured("[]EnvVar"),
    "envFrom": _refused("name each variable in env"),
    "computeResources": _inert(_NO_PODS),
    "volumeMounts": _honoured("[]VolumeMount"),
    "volumeDevices": _refused(_NO_MOUNT),
    "imagePullPolicy": _inert(_NO_PODS),
    "securityContext": _inert(_NO_PODS),
}
_TASK_SPEC = {
    "params": _honoured("[]ParamSpec"),
    "displayName": _inert(),
    "description": _inert(),
    "steps": _honoured("[]Step"),
    "volumes": _honoured("[]Volume"),
    "stepTemplate": _honoured("StepTemplate"),
    "sidecars": _refused("a Task here has steps only"),
    "workspaces": _honoured("[]WorkspaceDeclaration"),
    "results": _honoured("[]TaskResult"),
}
_RUN_METADATA = {
    "metadata": _honoured("Metadata"),
    "apiVersion": _honoured(),
    "kind": _honoured(),
    "status": _refused(_BY_SERVER),
}
_OTHER_VOLUMES = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "configMap",
    "csi",
    "downwardAPI",
    "ephemeral",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "persistentVolumeClaim",
    "photonPersistentDisk",
    "portworxVolume",
    "projected",
    "quobyte",
    "rbd",
    "scaleIO",
    "secret",
    "storageos",
    "vsphereVolume",
]

TYPES: dict[str, dict[str, Field]] = {
    "Task": {**_RUN_METADATA, "spec": _honoured("TaskSpec")},
    "Pipeline": {**_RUN_METADATA, "spec": _honoured("PipelineSpec")},
    "PipelineRun": {**_RUN_METADATA, "spec": _honoured("PipelineRunSpec")},
    "TaskRun": {**_RUN_METADATA, "spec": _honoured("TaskRunSpec")},
    "Metadata": {
        "name": _honoured(),
        "namespace": _honoured(),
        "generateName": _honoured(),
        "labels": _inert(),
        "annotations": _inert(),
        **dict.fromkeys(
            ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"),
            _refused(_BY_SERVER),
        ),
        **dict.fromkeys(("deletionTimestamp", "deletionGracePeriodSeconds"), _refused(_BY_SERVER)),
        **dict.fromkeys(("ownerReferences", "finalizers"), _refused("nothing here acts on it")),
    },
    "TaskSpec": _TASK_SPEC,
    "EmbeddedTask": {
        **_TASK_SPEC,
        "metadata": _inert(),
        **dict.fromkeys(("apiVersion", "kind", "spec"), _refused("custom tasks are not run here")),
    },
    "Step": {
        "name": _honoured(),
        "displayName": _inert(),
        **_IN_CONTAINER,
        "script": _honoured(
            "text", "a file that the interpreter of its first line runs; /bin/sh with set -e without one"
        ),
        "timeout": _honoured("duration"),
        "workspaces": _refused("every step sees the Task's workspaces"),
        "onError": _honoured(),
        "stdoutConfig": _refused("the log has the output"),
        "stderrConfig": _refused("the log has the output"),
        "ref": _refused(_NO_STEP_ACTION),
        "params": _refused(_NO_STEP_ACTION),
        "results": _refused("declare the result in the Task"),
        "when": _refused("guard the PipelineTask instead"),
    },
    "StepTemplate": _IN_CONTAINER,
    "EnvVar": {"name": _honoured(), "value": _honoured(), "valueFrom": _refused("no Secret in env: bind a workspace")},
    "VolumeMount": {
        "name": _honoured(),
        "mountPath": _honoured(
            "text", "where a text of the step (env, arg, script, ...) names it, the real folder is put in its place"
        ),
        **dict.fromkeys(
            ("subPath", "subPathExpr", "readOnly", "recursiveReadOnly", "mountPropagation"), _refused(_NO_MOUNT)
        ),
    },
    "Volume": {
        "name": _honoured(),
        "emptyDir": _honoured("EmptyDir"),
        **dict.fromkeys(_OTHER_VOLUMES, _refused(_NO_MOUNT)),
    },
    "EmptyDir": {"medium": _inert(), "sizeLimit": _inert()},
    "ParamSpec": {
        "name": _honoured(),
        "type": _honoured(),
        "description": _inert(),
        "properties": _honoured("{}PropertySpec"),
        "default": _honoured("value"),
        "enum": _refused("it needs a feature flag of Tekton"),
    },
    "PropertySpec": {"type": _honoured()},
    "Param": {"name": _honoured(), "value": _honoured("value")},
    "TaskResult": {
        "name": _honoured(),
        "type": _honoured(),
        "properties": _honoured("{}PropertySpec"),
        "description": _inert(),
        "value": _refused("steps have no results of their own here"),
    },
    "WorkspaceDeclaration": {
        "name": _honoured(),
        "description": _inert(),
        "mountPath": _honoured("text", "where a text of a step names it, the real folder is put in its place"),
        "readOnly": _honoured("bool", "a Task that changed it fails, unless another Task of the run may write there"),
        "optional": _honoured("bool"),
    },
    "PipelineSpec": {
        "displayName": _inert(),
        "description": _inert(),
        "tasks": _honoured("[]PipelineTask"),
        "params": _honoured("[]ParamSpec"),
        "workspaces": _honoured("[]PipelineWorkspace"),
        "results": _honoured("[]PipelineResult"),
        "finally": _honoured("[]PipelineTask"),
    },
    "PipelineWorkspace": {"name": _honoured(), "description": _inert(), "optional": _honoured("bool")},
    "PipelineResult": {"name": _honoured(), "type": _honoured(), "description": _inert(), "value": _honoured("value")},
    "PipelineTask": {
        "name": _honoured(),
        "displayName": _inert(),
        "description": _inert(),
        "taskRef": _honoured("TaskRef"),
        "taskSpec": _honoured("EmbeddedTask"),
        "when": _honoured("[]When"),
        "retries": _honoured("int"),
        "runAfter": _honoured("texts"),
        "params": _honoured("[]Param"),
        "matrix": _honoured("Matrix", "its TaskRuns run side by side"),
        "workspaces": _honoured("[]TaskWorkspace"),
        "timeout": _honoured("duration"),
        "pipelineRef": _refused("pipelines in pipelines are not run here"),
        "pipelineSpec": _refused("pipelines in pipelines are not run here"),
        "onError": _honoured(),
    },
    "Matrix": {"params": _honoured("[]Param"), "include": _honoured("[]IncludeParams")},
    "IncludeParams": {"name": _inert("a name for screens"), "params": _honoured("[]Param")},
    "TaskWorkspace": {"name": _honoured(), "workspace": _honoured(), "subPath": _honoured()},
    "When": {
        "input": _honoured(),
        "operator": _honoured(),
        "values": _honoured("texts"),
        "cel": _refused("use input, operator and values"),
    },
    "TaskRef": {
        "name": _honoured(),
        "kind": _honoured("text", "Task"),
        "apiVersion": _refused("custom tasks are not run here"),
        **dict.fromkeys(("resolver", "params"), _refused(_BY_NAME)),
    },
    "PipelineRef": {
        "name": _honoured(),
        "apiVersion": _inert(),
        **dict.fromkeys(("resolver", "params"), _refused(_BY_NAME)),
    },
    "PipelineRunSpec": {
        "pipelineRef": _honoured("PipelineRef"),
        "pipelineSpec": _honoured("PipelineSpec"),
        "params": _honoured("[]Param"),
        "status": _refused("a local run starts at once; Ctrl-C cancels it"),
        "timeouts": _honoured("Timeouts"),
        "taskRunTemplate": _inert(_NO_PODS),
        "workspaces": _honoured("[]WorkspaceBinding"),
        "taskRunSpecs": _honoured("[]TaskRunOverride"),
        "managedBy": _refused("this runner manages it"),
    },
    "Timeouts": {"pipeline": _honoured("duration"), "tasks": _honoured("duration"), "finally": _honoured("duration")},
    "TaskRunOverride": {
        "pipelineTaskName": _honoured(),
        "timeout": _honoured("duration"),
        "metadata": _inert(),
        **dict.fromkeys(
            ("serviceAccountName", "podTemplate", "stepSpecs", "sidecarSpecs", "computeResources"), _inert(_NO_PODS)
        ),
    },
    "WorkspaceBinding": {
        "name": _honoured(),
        "subPath": _honoured(),
        "volumeClaimTemplate": _honoured("any", "a folder of this run; its size and class have no effect"),
        "persistentVolumeClaim": _honoured("Claim"),
        "emptyDir": _honoured("EmptyDir"),
        "configMap": _honoured("ConfigMapSource"),
        "secret": _honoured("SecretSource"),
        "projected": _refused(_NO_MOUNT),
        "csi": _refused(_NO_MOUNT),
    },
    "Claim": {"claimName": _honoured(), "readOnly": _refused("declare the Task's workspace readOnly")},
    "ConfigMapSource": {
        "name": _honoured(),
        "defaultMode": _inert(),
        "items": _honoured("[]KeyToPath"),
        "optional": _refused("leave it out instead"),
    },
    "KeyToPath": {"key": _honoured(), "path": _honoured(), "mode": _inert()},
    "SecretSource": {
        "secretName": _honoured(),
        "defaultMode": _inert("files have mode 0600"),
        "items": _honoured("[]KeyToPath"),
        "optional": _refused("leave it out instead"),
    },
    "TaskRunSpec": {
        "params": _honoured("[]Param"),
        "taskRef": _honoured("TaskRef"),
        "taskSpec": _honoured("TaskSpec"),
        "retries": _honoured("int"),
        "timeout": _honoured("duration"),
        "workspaces": _honoured("[]WorkspaceBinding"),
        **dict.fromkeys(
            ("serviceAccountName", "podTemplate", "stepSpecs", "sidecarSpecs", "computeResources"), _inert(_NO_PODS)
        ),
        "debug": _refused(_NO_PODS),
        "status": _refused("a local run starts at once; Ctrl-C cancels it"),
        "statusMessage": _refused("a local run starts at once; Ctrl-C cancels it"),
        "managedBy": _refused("this runner manages it"),
    },
}
