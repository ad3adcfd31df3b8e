// Command validate checks Tekton manifests with Tekton's own types and CRD schemas.
//
// Usage: validate CRD-FOLDER FILE...
//
// Each YAML document of kind Task, Pipeline or PipelineRun is decoded strictly (an unknown or doubled field is an error), compared with the
// OpenAPI schema of its CustomResourceDefinition, defaulted, and validated as Tekton's admission webhook would (references, cycles, types).
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

// check returns the complaints about one YAML document; other API groups have none.
func check(schemas crds, document []byte) []string {
	var meta metav1.TypeMeta
	if err := yaml.Unmarshal(document, &meta); err != nil {
		return []string{err.Error()}
	}
	if meta.APIVersion != v1.SchemeGroupVersion.String() {
		return nil
	}
	object := newResource(meta.Kind)
	if object == nil {
		return []string{fmt.Sprintf("kind %s is none of Task, Pipeline, PipelineRun", meta.Kind)}
	}
	complaints := schemas.check(meta.Kind, document)
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
	return complaints
}

func checkFile(schemas crds, path string) ([]finding, error) {
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
		for _, message := range check(schemas, document) {
			findings = append(findings, finding{File: path, Document: number, Message: message})
		}
	}
}

func run(crdFolder string, paths []string) (int, error) {
	schemas, err := loadCRDs(crdFolder)
	if err != nil {
		return 2, err
	}
	status, out := 0, json.NewEncoder(os.Stdout)
	for _, path := range paths {
		findings, err := checkFile(schemas, path)
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
