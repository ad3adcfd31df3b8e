package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"

	"github.com/tektoncd/triggers/pkg/apis/triggers"
	"github.com/tektoncd/triggers/pkg/apis/triggers/v1alpha1"
	"github.com/tektoncd/triggers/pkg/apis/triggers/v1beta1"
	listersv1alpha1 "github.com/tektoncd/triggers/pkg/client/listers/triggers/v1alpha1"
	listers "github.com/tektoncd/triggers/pkg/client/listers/triggers/v1beta1"
	"github.com/tektoncd/triggers/pkg/sink"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/cache"
)

// outcome is what became of an event in one trigger, or in the interceptors of a group of triggers.
type outcome struct {
	Trigger      string                       `json:"trigger"`
	Group        bool                         `json:"group,omitempty"`
	Created      []*unstructured.Unstructured `json:"created"`
	Reason       string                       `json:"reason,omitempty"`
	Interceptors []answer                     `json:"interceptors,omitempty"`
}

// report is what became of an event.
type report struct {
	Listener string    `json:"listener"`
	Status   int       `json:"status"`
	Message  string    `json:"message,omitempty"`
	Errors   []string  `json:"errors,omitempty"`
	Assumed  []string  `json:"assumedSecrets,omitempty"`
	Missing  []string  `json:"missingSecrets,omitempty"`
	Triggers []outcome `json:"triggers"`
}

// given is an EventListener with everything that it reads.
type given struct {
	listener  *v1beta1.EventListener
	indexers  map[string]cache.Indexer
	templates []v1beta1.TriggerResourceTemplate
	secrets   *secrets
	triggers  map[string]int // how many objects have a name
}

func arrange(objects []object, namespace, name string) (given, error) {
	all := given{
		indexers: map[string]cache.Indexer{},
		secrets:  &secrets{known: map[string]*corev1.Secret{}, madeUp: map[string]bool{}, missing: map[string]bool{}},
		triggers: map[string]int{},
	}
	for _, kind := range []string{"EventListener", "Trigger", "TriggerBinding", "ClusterTriggerBinding", "TriggerTemplate", "Interceptor", "ClusterInterceptor"} {
		all.indexers[kind] = cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	}
	for _, one := range append(objects, coreInterceptors()...) {
		if err := all.add(one, namespace, name); err != nil {
			return all, err
		}
	}
	if all.listener == nil {
		if namespace != "" {
			name += " of namespace " + namespace
		}
		return all, fmt.Errorf("no EventListener %s in the files", name)
	}
	return all, all.checkNames()
}

func (all *given) add(one object, namespace, name string) error {
	kind := ""
	switch read := one.(type) {
	case *corev1.Secret:
		all.secrets.known[read.Namespace+"/"+read.Name] = read
		return nil
	case *v1beta1.EventListener:
		kind = "EventListener"
		if read.Name == name && (namespace == "" || read.Namespace == namespace) {
			if all.listener != nil {
				return fmt.Errorf("several EventListeners %s in the files; name one by -namespace", name)
			}
			all.listener = read
			for _, trigger := range read.Spec.Triggers {
				if trigger.Template != nil && trigger.Template.Spec != nil {
					all.templates = append(all.templates, trigger.Template.Spec.ResourceTemplates...)
				}
			}
		}
	case *v1beta1.Trigger:
		kind = "Trigger"
		all.triggers[read.Name]++
		if read.Spec.Template.Spec != nil {
			all.templates = append(all.templates, read.Spec.Template.Spec.ResourceTemplates...)
		}
	case *v1beta1.TriggerBinding:
		kind = "TriggerBinding"
	case *v1beta1.ClusterTriggerBinding:
		kind = "ClusterTriggerBinding"
	case *v1beta1.TriggerTemplate:
		kind = "TriggerTemplate"
		all.templates = append(all.templates, read.Spec.ResourceTemplates...)
	case *v1alpha1.Interceptor:
		kind = "Interceptor"
		read.Status.AddressStatus = addressOf(string(v1beta1.NamespacedInterceptorKind), read.Name)
	case *v1alpha1.ClusterInterceptor:
		kind = "ClusterInterceptor"
		read.Status.AddressStatus = addressOf(string(v1beta1.ClusterInterceptorKind), read.Name)
	}
	return all.indexers[kind].Add(one)
}

// checkNames refuses what cannot be told apart in the sink's answers, which name a trigger and not its namespace.
func (all *given) checkNames() error {
	seen := map[string]bool{}
	for number, trigger := range all.listener.Spec.Triggers {
		name := nameOf(trigger)
		if name == "" {
			return fmt.Errorf("trigger %d of EventListener %s has no name; name it", number, all.listener.Name)
		}
		inline := trigger.TriggerRef == "" && all.triggers[name] > 0
		if seen[name] || inline || all.triggers[name] > 1 {
			return fmt.Errorf("several triggers are called %s; give each a name of its own", name)
		}
		seen[name] = true
	}
	return nil
}

func nameOf(trigger v1beta1.EventListenerTrigger) string {
	if trigger.Template == nil && trigger.TriggerRef != "" {
		return trigger.TriggerRef
	}
	return trigger.Name
}

// replay gives an event to Triggers' sink, waits for all triggers, and reports what each made of it.
func (all *given) replay(request *http.Request, urls map[string]string) (report, error) {
	if _, err := sink.NewRecorder(); err != nil {
		return report{}, err
	}
	interceptors, err := newAsked(all.secrets, urls)
	if err != nil {
		return report{}, err
	}
	seen, logs := observer.New(zapcore.DebugLevel)
	made := &created{}
	listener := all.listener
	one := sink.Sink{
		HTTPClient:                  &http.Client{Transport: interceptors},
		DiscoveryClient:             newDiscovered(all.templates),
		DynamicClient:               made,
		EventListenerName:           listener.Name,
		EventListenerNamespace:      listener.Namespace,
		Logger:                      zap.New(seen).Sugar(),
		Auth:                        sameRights{},
		PayloadValidation:           listener.Annotations[triggers.PayloadValidationAnnotation] != "false",
		WGProcessTriggers:           &sync.WaitGroup{},
		EventListenerLister:         listers.NewEventListenerLister(all.indexers["EventListener"]),
		TriggerLister:               listers.NewTriggerLister(all.indexers["Trigger"]),
		TriggerBindingLister:        listers.NewTriggerBindingLister(all.indexers["TriggerBinding"]),
		ClusterTriggerBindingLister: listers.NewClusterTriggerBindingLister(all.indexers["ClusterTriggerBinding"]),
		TriggerTemplateLister:       listers.NewTriggerTemplateLister(all.indexers["TriggerTemplate"]),
		ClusterInterceptorLister:    listersv1alpha1.NewClusterInterceptorLister(all.indexers["ClusterInterceptor"]),
		InterceptorLister:           listersv1alpha1.NewInterceptorLister(all.indexers["Interceptor"]),
	}
	response := httptest.NewRecorder()
	one.IsValidPayload(http.HandlerFunc(one.HandleEvent)).ServeHTTP(response, request)
	one.WGProcessTriggers.Wait()
	return all.tell(response, logs, interceptors, made)
}

func (all *given) tell(response *httptest.ResponseRecorder, logs *observer.ObservedLogs, interceptors *asked, made *created) (report, error) {
	told := report{Listener: all.listener.Namespace + "/" + all.listener.Name, Status: response.Code, Triggers: []outcome{}}
	told.Assumed = slices.Sorted(maps.Keys(all.secrets.madeUp))
	told.Missing = slices.Sorted(maps.Keys(all.secrets.missing))
	var body sink.Response
	if err := json.Unmarshal(response.Body.Bytes(), &body); err != nil && response.Code == http.StatusAccepted {
		return told, errors.New("the sink's answer is not JSON")
	}
	told.Message = body.ErrorMessage
	found := outcomes{}
	found.readLogs(logs, &told)
	for _, object := range made.objects {
		one := found.of(ofTrigger, object.GetLabels()[triggers.GroupName+triggers.TriggerLabelKey])
		one.Created = append(one.Created, object)
	}
	for id, answers := range interceptors.answers {
		found.readAnswers(id, answers)
	}
	if told.Status == http.StatusAccepted {
		told.Triggers = all.inOrder(found)
	}
	return told, nil
}

const (
	ofTrigger = "triggers"
	ofGroup   = "triggerGroups"
)

// outcomes are those seen so far, by kind and name.
type outcomes map[string]*outcome

func (found outcomes) of(kind, name string) *outcome {
	key := kind + "/" + name
	if found[key] == nil {
		found[key] = &outcome{Trigger: name, Group: kind == ofGroup, Created: []*unstructured.Unstructured{}}
	}
	return found[key]
}

// readLogs takes from the sink's log which triggers it came to, and its errors.
func (found outcomes) readLogs(logs *observer.ObservedLogs, told *report) {
	for _, line := range logs.All() {
		fields := line.ContextMap()
		trigger, isTrigger := fields[triggers.TriggerLabelKey].(string)
		group, isGroup := fields[triggers.TriggerGroupLabelKey].(string)
		var one *outcome
		switch {
		case isTrigger:
			one = found.of(ofTrigger, trigger)
		case isGroup:
			one = found.of(ofGroup, group)
		}
		switch {
		case line.Level < zapcore.ErrorLevel:
		case one == nil:
			told.Errors = append(told.Errors, line.Message)
		default:
			one.Reason = line.Message // the last says it best: the sink hands errors up
		}
	}
}

// readAnswers takes what interceptors said for a trigger ID: namespaces/NAMESPACE/triggers/NAME, or triggerGroups/NAME.
func (found outcomes) readAnswers(id string, answers []answer) {
	words := strings.SplitN(id, "/", 4)
	if len(words) < 4 {
		return
	}
	one := found.of(words[2], words[3])
	one.Interceptors = answers
	for _, said := range answers {
		if !said.Continue {
			one.Reason = fmt.Sprintf("interceptor %s: %s", said.Interceptor, said.Message)
		}
	}
}

// inOrder puts the listener's own triggers first, then its groups, both in its order, then the triggers that it selects, by name.
func (all *given) inOrder(found outcomes) []outcome {
	sorted := []outcome{}
	take := func(kind, name string) {
		sorted = append(sorted, *found.of(kind, name))
		delete(found, kind+"/"+name)
	}
	for _, trigger := range all.listener.Spec.Triggers {
		name := nameOf(trigger)
		if found[ofTrigger+"/"+name] == nil {
			found.of(ofTrigger, name).Reason = fmt.Sprintf("no Trigger %s in namespace %s", name, all.listener.Namespace)
		}
		take(ofTrigger, name)
	}
	for _, group := range all.listener.Spec.TriggerGroups {
		take(ofGroup, group.Name)
	}
	for _, key := range slices.Sorted(maps.Keys(found)) {
		sorted = append(sorted, *found[key])
	}
	return sorted
}
