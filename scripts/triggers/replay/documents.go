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

	"github.com/tektoncd/triggers/pkg/apis/triggers/contexts"
	"github.com/tektoncd/triggers/pkg/apis/triggers/v1alpha1"
	"github.com/tektoncd/triggers/pkg/apis/triggers/v1beta1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"knative.dev/pkg/apis"
	"sigs.k8s.io/yaml"
)

// object is a document that Triggers reads.
type object interface {
	metav1.Object
	GetObjectKind() schema.ObjectKind
}

// admitted is what Triggers' own admission webhook does with an object before the API server keeps it.
type admitted interface {
	SetDefaults(ctx context.Context)
	Validate(ctx context.Context) *apis.FieldError
}

// newObject returns an empty object of a kind that an EventListener reads, nil for every other kind.
func newObject(kind schema.GroupVersionKind) object {
	switch kind {
	case v1beta1.SchemeGroupVersion.WithKind("EventListener"):
		return &v1beta1.EventListener{}
	case v1beta1.SchemeGroupVersion.WithKind("Trigger"):
		return &v1beta1.Trigger{}
	case v1beta1.SchemeGroupVersion.WithKind("TriggerBinding"):
		return &v1beta1.TriggerBinding{}
	case v1beta1.SchemeGroupVersion.WithKind("ClusterTriggerBinding"):
		return &v1beta1.ClusterTriggerBinding{}
	case v1beta1.SchemeGroupVersion.WithKind("TriggerTemplate"):
		return &v1beta1.TriggerTemplate{}
	case v1alpha1.SchemeGroupVersion.WithKind("Interceptor"):
		return &v1alpha1.Interceptor{}
	case v1alpha1.SchemeGroupVersion.WithKind("ClusterInterceptor"):
		return &v1alpha1.ClusterInterceptor{}
	case corev1.SchemeGroupVersion.WithKind("Secret"):
		return &corev1.Secret{}
	default:
		return nil
	}
}

func isClusterWide(kind string) bool {
	return kind == "ClusterTriggerBinding" || kind == "ClusterInterceptor"
}

// readFiles returns the objects of YAML files; those without a namespace get the given one, as `kubectl -n` would do.
func readFiles(paths []string, namespace string) ([]object, error) {
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	var found []object
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
		for {
			document, err := reader.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err == nil {
				var read []object
				read, err = readDocument(document, namespace)
				found = append(found, read...)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	return found, nil
}

func readDocument(document []byte, namespace string) ([]object, error) {
	var meta struct {
		metav1.TypeMeta `json:",inline"`
		Items           []json.RawMessage `json:"items"`
	}
	if err := yaml.Unmarshal(document, &meta); err != nil {
		return nil, err
	}
	kind := meta.GroupVersionKind()
	if kind.Kind == "List" {
		var found []object
		for _, item := range meta.Items {
			read, err := readDocument(item, namespace)
			if err != nil {
				return nil, err
			}
			found = append(found, read...)
		}
		return found, nil
	}
	read := newObject(kind)
	if read == nil {
		if kind.Group == v1beta1.SchemeGroupVersion.Group {
			return nil, fmt.Errorf("%s %s is not read here; EventListeners, Triggers, bindings and templates are of %s, interceptors of %s",
				kind.GroupVersion(), kind.Kind, v1beta1.SchemeGroupVersion, v1alpha1.SchemeGroupVersion)
		}
		return nil, nil // Tasks, Pipelines and whatever else an installation holds
	}
	if err := yaml.UnmarshalStrict(document, read); err != nil {
		return nil, fmt.Errorf("%s %s: %w", kind.Kind, read.GetName(), err)
	}
	if read.GetNamespace() == "" && !isClusterWide(kind.Kind) {
		read.SetNamespace(namespace)
	}
	if webhook, ok := read.(admitted); ok {
		ctx := contexts.WithUpgradeViaDefaulting(context.Background())
		webhook.SetDefaults(ctx)
		if err := webhook.Validate(ctx); err != nil {
			return nil, fmt.Errorf("%s %s: %w", kind.Kind, read.GetName(), err)
		}
	}
	return []object{read}, nil
}
