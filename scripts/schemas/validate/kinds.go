package main

import (
	"fmt"

	buildv1 "github.com/openshift/api/build/v1"
	consolev1 "github.com/openshift/api/console/v1"
	imagev1 "github.com/openshift/api/image/v1"
	routev1 "github.com/openshift/api/route/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// newScheme knows the Go types of what an installation holds besides Tekton's kinds. OpenShift's builds and images have no
// CustomResourceDefinition: the types are all that says which fields there are.
func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, install := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, rbacv1.AddToScheme, buildv1.Install, consolev1.Install, imagev1.Install, routev1.Install,
	} {
		if err := install(scheme); err != nil {
			return nil, err
		}
	}
	return scheme, nil
}

// checkType decodes a document strictly into its kind's type: an unknown or doubled field is a complaint, as is a kind that
// its group does not have. Groups without types here are passed over.
func checkType(scheme *runtime.Scheme, kind schema.GroupVersionKind, document []byte) []string {
	if !scheme.IsVersionRegistered(kind.GroupVersion()) {
		return nil
	}
	object, err := scheme.New(kind)
	if err != nil {
		return []string{fmt.Sprintf("%s has no kind %s", kind.GroupVersion(), kind.Kind)}
	}
	// The API server's own decoder: unlike Go's, it tells `targetport` from `targetPort`.
	content, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return []string{err.Error()}
	}
	unknown, err := json.UnmarshalStrict(content, object)
	if err != nil {
		return []string{err.Error()}
	}
	var complaints []string
	for _, field := range unknown {
		complaints = append(complaints, field.Error())
	}
	return complaints
}
