// Command validate checks manifests with the types and schemas of those who read them: Tekton, KServe, OpenShift, Kubernetes.
//
// Usage: validate CRD-FOLDER FILE...
//
// Each YAML document of kind Task, Pipeline or PipelineRun is decoded strictly (an unknown or doubled field is an error), compared with the
// OpenAPI schema of its CustomResourceDefinition, defaulted, and validated as Tekton's admission webhook would (references, cycles, types).
// KServe's kinds and OpenShift's Routes and console kinds are compared with their CustomResourceDefinitions; OpenShift's and Kubernetes' own
// kinds are decoded strictly into their types. The pods of Tasks and ServingRuntimes must pass pod security profile `restricted`.
// Findings go to stdout, one JSON object a line: {"file", "document", "message"}. Exit 0 without findings, 1 with some, 2 when it cannot work.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/tektoncd/pipeline/pkg/apis/pipeline/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"knative.dev/pkg/apis"
	"sigs.k8s.io/yaml"
)

// resource is what Tekton's webhook asks of each of its kinds.
type resource interface {
	metav1.ObjectMetaAccessor
	SetDefaults(ctx context.Context)
	Validate(ctx context.Context) *apis.FieldError
}

type finding struct {
	File     string `json:"file"`
	Document int    `json:"document"`
	Message  string `json:"message"`
}

func newResource(kind string) resource {
	switch kind {
	case "Task":
		return &v1.Task{}
	case "Pipeline":
		return &v1.Pipeline{}
	case "PipelineRun":
		return &v1.PipelineRun{}
	default:
		return nil
	}
}

// rules are what documents are compared with.
type rules struct {
	schemas crds
	scheme  *runtime.Scheme
	profile restricted
}

func loadRules(crdFolder string) (rules, error) {
	schemas, err := loadCRDs(crdFolder)
	if err != nil {
		return rules{}, err
	}
	scheme, err := newScheme()
	if err != nil {
		return rules{}, err
	}
	profile, err := newRestricted()
	return rules{schemas, scheme, profile}, err
}

// check returns the complaints about one YAML document.
func (known rules) check(document []byte) []string {
	var meta metav1.TypeMeta
	if err := yaml.Unmarshal(document, &meta); err != nil {
		return []string{err.Error()}
	}
	kind := meta.GroupVersionKind()
	if kind.GroupVersion() == v1.SchemeGroupVersion {
		return known.checkTekton(kind, document)
	}
	complaints := known.schemas.check(kind, document)
	if len(complaints) == 0 { // else the schema has said it, with the whole path
		complaints = checkType(known.scheme, kind, document)
	}
	if isRuntime(kind.Group, kind.Kind) {
		complaints = append(complaints, known.profile.checkRuntime(document)...)
	}
	return complaints
}

func (known rules) checkTekton(kind schema.GroupVersionKind, document []byte) []string {
	object := newResource(kind.Kind)
	if object == nil {
		return []string{fmt.Sprintf("kind %s is none of Task, Pipeline, PipelineRun", kind.Kind)}
	}
	complaints := known.schemas.check(kind, document)
	if err := yaml.UnmarshalStrict(document, object); err != nil {
		if len(complaints) > 0 { // the schema has said it, with the whole path
			return complaints
		}
		return []string{err.Error()}
	}
	// The API server makes up the name before it asks validating webhooks.
	if name := object.GetObjectMeta(); name.GetName() == "" && name.GetGenerateName() != "" {
		name.SetName(name.GetGenerateName() + "00000")
	}
	ctx := apis.WithinCreate(context.Background())
	object.SetDefaults(ctx)
	if err := object.Validate(ctx); err != nil {
		complaints = append(complaints, err.Error())
	}
	if task, ok := object.(*v1.Task); ok {
		complaints = append(complaints, known.profile.checkTask(task)...)
	}
	return complaints
}

func (known rules) checkFile(path string) ([]finding, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var findings []finding
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for number := 0; ; number++ {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return findings, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for _, message := range known.check(document) {
			findings = append(findings, finding{File: path, Document: number, Message: message})
		}
	}
}

func run(crdFolder string, paths []string) (int, error) {
	known, err := loadRules(crdFolder)
	if err != nil {
		return 2, err
	}
	status, out := 0, json.NewEncoder(os.Stdout)
	for _, path := range paths {
		findings, err := known.checkFile(path)
		if err != nil {
			return 2, err
		}
		for _, found := range findings {
			status = 1
			if err := out.Encode(found); err != nil {
				return 2, err
			}
		}
	}
	return status, nil
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: validate CRD-FOLDER FILE...")
		os.Exit(2)
	}
	status, err := run(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "validate:", err)
	}
	os.Exit(status)
}
