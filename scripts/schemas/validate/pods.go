package main

import (
	"fmt"
	"strings"

	v1 "github.com/tektoncd/pipeline/pkg/apis/pipeline/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	psa "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// restricted asks Kubernetes' own pod security checks whether a namespace that enforces profile `restricted` admits a pod.
// OpenShift's SCC restricted-v2 is as strict where the two speak of the same field.
type restricted struct{ evaluator policy.Evaluator }

func newRestricted() (restricted, error) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	return restricted{evaluator}, err
}

func (profile restricted) check(spec corev1.PodSpec) []string {
	level := psa.LevelVersion{Level: psa.LevelRestricted, Version: psa.LatestVersion()}
	result := policy.AggregateCheckResults(profile.evaluator.EvaluatePod(level, &metav1.ObjectMeta{}, &spec))
	if result.Allowed {
		return nil
	}
	return []string{fmt.Sprintf("pod security `restricted` refuses its pod: %s", result.ForbiddenDetail())}
}

// checkTask makes the pod of a Task as Tekton does: each step takes what stepTemplate says and it does not. What Tekton adds
// (its init containers) follows Tekton's own setting `set-security-context`.
func (profile restricted) checkTask(task *v1.Task) []string {
	steps, err := v1.MergeStepsWithStepTemplate(task.Spec.StepTemplate, task.Spec.Steps)
	if err != nil {
		return []string{err.Error()}
	}
	pod := corev1.PodSpec{Volumes: task.Spec.Volumes}
	for _, step := range steps {
		pod.Containers = append(pod.Containers, *step.ToK8sContainer())
	}
	for _, sidecar := range task.Spec.Sidecars {
		pod.Containers = append(pod.Containers, *sidecar.ToK8sContainer())
	}
	return profile.check(pod)
}

// checkRuntime makes the predictor's pod from a ServingRuntime: KServe takes the containers and volumes as they stand.
func (profile restricted) checkRuntime(document []byte) []string {
	var runtime struct {
		Spec struct {
			Containers []corev1.Container `json:"containers"`
			Volumes    []corev1.Volume    `json:"volumes"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(document, &runtime); err != nil {
		return []string{err.Error()}
	}
	return profile.check(corev1.PodSpec{Containers: runtime.Spec.Containers, Volumes: runtime.Spec.Volumes})
}

func isRuntime(group, kind string) bool {
	return group == "serving.kserve.io" && strings.HasSuffix(kind, "ServingRuntime")
}
