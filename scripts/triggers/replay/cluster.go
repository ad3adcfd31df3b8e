package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"sync"

	pipelinev1 "github.com/tektoncd/pipeline/pkg/apis/pipeline/v1"
	"github.com/tektoncd/triggers/pkg/apis/triggers/v1beta1"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"knative.dev/pkg/apis"
	"sigs.k8s.io/yaml"
)

// secrets answers for the Secrets of the documents. With an assumed value it makes up those that the documents lack.
type secrets struct {
	known   map[string]*corev1.Secret
	assumed []byte

	lock    sync.Mutex
	madeUp  map[string]bool
	missing map[string]bool
}

func (all *secrets) Secrets(namespace string) typedcorev1.SecretInterface {
	return secretsOf{all: all, namespace: namespace}
}

// secretsOf can only be read: interceptors ask for nothing else.
type secretsOf struct {
	typedcorev1.SecretInterface
	all       *secrets
	namespace string
}

func (of secretsOf) Get(_ context.Context, name string, _ metav1.GetOptions) (*corev1.Secret, error) {
	if found, ok := of.all.known[of.namespace+"/"+name]; ok {
		secret := found.DeepCopy()
		if secret.Data == nil {
			secret.Data = map[string][]byte{}
		}
		for key, value := range secret.StringData {
			secret.Data[key] = []byte(value)
		}
		return secret, nil
	}
	of.all.lock.Lock()
	defer of.all.lock.Unlock()
	if of.all.assumed == nil {
		of.all.missing[name] = true // CEL does not say so: an expression that cannot be evaluated "did not return true"
		return nil, apierrors.NewNotFound(corev1.Resource("secrets"), name)
	}
	of.all.madeUp[name] = true
	nobodys := rand.Text()
	return &corev1.Secret{Data: map[string][]byte{"current": of.all.assumed, "previous": []byte(nobodys)}}, nil
}

// discovered knows every kind that the TriggerTemplates make.
type discovered struct {
	discovery.ServerResourcesInterface
	kinds map[string]map[string]bool
}

func newDiscovered(templates []v1beta1.TriggerResourceTemplate) discovered {
	known := discovered{kinds: map[string]map[string]bool{}}
	for _, template := range templates {
		var kind metav1.TypeMeta
		if yaml.Unmarshal(template.Raw, &kind) != nil {
			continue // what a template is worth without its params shows when it is filled
		}
		if known.kinds[kind.APIVersion] == nil {
			known.kinds[kind.APIVersion] = map[string]bool{}
		}
		known.kinds[kind.APIVersion][kind.Kind] = true
	}
	return known
}

func (known discovered) ServerResourcesForGroupVersion(version string) (*metav1.APIResourceList, error) {
	group, err := schema.ParseGroupVersion(version)
	if err != nil {
		return nil, err
	}
	list := &metav1.APIResourceList{GroupVersion: version}
	for kind := range maps.Keys(known.kinds[version]) {
		plural, _ := meta.UnsafeGuessKindToResource(group.WithKind(kind))
		list.APIResources = append(list.APIResources, metav1.APIResource{Name: plural.Resource, Kind: kind, Namespaced: true})
	}
	return list, nil
}

// created is where the sink creates resources: it refuses what an API server with Tekton's webhook refuses, and keeps the rest.
type created struct {
	dynamic.Interface

	lock    sync.Mutex
	objects []*unstructured.Unstructured
}

func (all *created) Resource(resource schema.GroupVersionResource) dynamic.NamespaceableResourceInterface {
	return createdOf{all: all, resource: resource}
}

type createdOf struct {
	dynamic.NamespaceableResourceInterface
	all       *created
	resource  schema.GroupVersionResource
	namespace string
}

func (of createdOf) Namespace(namespace string) dynamic.ResourceInterface {
	of.namespace = namespace
	return of
}

func (of createdOf) Create(_ context.Context, given *unstructured.Unstructured, _ metav1.CreateOptions, _ ...string) (*unstructured.Unstructured, error) {
	made := given.DeepCopy()
	made.SetNamespace(of.namespace)
	if err := admit(made); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	of.all.lock.Lock()
	defer of.all.lock.Unlock()
	for _, other := range of.all.objects {
		same := other.GroupVersionKind() == made.GroupVersionKind() && other.GetNamespace() == made.GetNamespace()
		if same && made.GetName() != "" && other.GetName() == made.GetName() {
			return nil, apierrors.NewAlreadyExists(of.resource.GroupResource(), made.GetName())
		}
	}
	of.all.objects = append(of.all.objects, made)
	return made, nil
}

// admit says why the API server or Tekton's webhook would not take an object.
func admit(made *unstructured.Unstructured) error {
	name := made.GetName()
	if name == "" && made.GetGenerateName() != "" {
		name = made.GetGenerateName() + "00000"
	}
	if wrong := validation.IsDNS1123Subdomain(name); len(wrong) > 0 {
		return fmt.Errorf("metadata.name %q: %s", name, wrong[0])
	}
	var run interface {
		metav1.Object
		SetDefaults(ctx context.Context)
		Validate(ctx context.Context) *apis.FieldError
	}
	switch made.GroupVersionKind() {
	case pipelinev1.SchemeGroupVersion.WithKind("PipelineRun"):
		run = &pipelinev1.PipelineRun{}
	case pipelinev1.SchemeGroupVersion.WithKind("TaskRun"):
		run = &pipelinev1.TaskRun{}
	default:
		return nil
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(made.Object, run, true); err != nil {
		return err
	}
	run.SetName(name)
	ctx := apis.WithinCreate(context.Background())
	run.SetDefaults(ctx)
	if err := run.Validate(ctx); err != nil {
		return err
	}
	return nil
}

// sameRights lets triggers with a ServiceAccount of their own create like the others: nobody's rights are asked for here.
type sameRights struct{}

func (sameRights) OverrideAuthentication(
	_, _ string, _ *zap.SugaredLogger, found discovery.ServerResourcesInterface, client dynamic.Interface,
) (discovery.ServerResourcesInterface, dynamic.Interface, error) {
	return found, client, nil
}
