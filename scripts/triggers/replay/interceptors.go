package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/tektoncd/triggers/pkg/apis/triggers/v1alpha1"
	"github.com/tektoncd/triggers/pkg/apis/triggers/v1beta1"
	"github.com/tektoncd/triggers/pkg/interceptors"
	"github.com/tektoncd/triggers/pkg/interceptors/server"
	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"knative.dev/pkg/apis"
	duckv1 "knative.dev/pkg/apis/duck/v1"
)

const (
	// Where the sink believes interceptors to be; nothing is ever sent there.
	interceptorHost = "interceptor.invalid"
	askTimeout      = 10 * time.Second
)

// core are the interceptors that every installation of Triggers has.
var core = map[string]bool{"bitbucket": true, "cel": true, "github": true, "gitlab": true, "slack": true}

// answer is what an interceptor said of an event.
type answer struct {
	Interceptor string         `json:"interceptor"`
	Continue    bool           `json:"continue"`
	Message     string         `json:"message,omitempty"`
	Extensions  map[string]any `json:"extensions,omitempty"`
}

// asked carries the sink's requests to interceptors: Triggers' own run in this process, others at the URLs given for them.
type asked struct {
	core *server.Server
	urls map[string]string

	lock    sync.Mutex
	answers map[string][]answer // by trigger ID
}

func newAsked(all *secrets, urls map[string]string) (*asked, error) {
	inside, err := server.NewWithCoreInterceptors(interceptors.DefaultSecretGetter(all), zap.NewNop().Sugar())
	return &asked{core: inside, urls: urls, answers: map[string][]answer{}}, err
}

// addressOf returns the status under which the sink finds an interceptor.
func addressOf(kind, name string) duckv1.AddressStatus {
	address := &apis.URL{Scheme: "http", Host: interceptorHost, Path: "/" + kind + "/" + name}
	return duckv1.AddressStatus{Address: &duckv1.Addressable{URL: address}}
}

// coreInterceptors returns the objects that an installation of Triggers brings along.
func coreInterceptors() []object {
	var all []object
	for name := range core {
		all = append(all, &v1alpha1.ClusterInterceptor{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	return all
}

// RoundTrip answers the sink, and keeps the answer.
func (to *asked) RoundTrip(request *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, err
	}
	request.Body = io.NopCloser(bytes.NewReader(body))
	var event v1beta1.InterceptorRequest
	if json.Unmarshal(body, &event) != nil || event.Context == nil || request.URL.Host != interceptorHost {
		return nil, errors.New("interceptors of the old webhook kind are not asked here; refer to an Interceptor")
	}
	kind, name, _ := strings.Cut(strings.TrimPrefix(request.URL.Path, "/"), "/")
	response, err := to.ask(kind, name, request)
	said := answer{Interceptor: name}
	if err == nil {
		said, err = read(name, response)
	}
	if err != nil {
		said.Message = err.Error()
	}
	to.lock.Lock()
	defer to.lock.Unlock()
	to.answers[event.Context.TriggerID] = append(to.answers[event.Context.TriggerID], said)
	return response, err
}

func (to *asked) ask(kind, name string, request *http.Request) (*http.Response, error) {
	if kind == string(v1beta1.ClusterInterceptorKind) && core[name] {
		request.URL.Path = "/" + name
		recorder := httptest.NewRecorder()
		to.core.ServeHTTP(recorder, request)
		return recorder.Result(), nil
	}
	address, given := to.urls[name]
	if !given {
		return nil, fmt.Errorf("was not asked; give its URL by --interceptor %s=URL", name)
	}
	target, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	there := request.Clone(request.Context())
	there.URL, there.Host = target, target.Host
	client := http.Client{Timeout: askTimeout}
	there.RequestURI = ""
	return client.Do(there)
}

// read notes what an interceptor said, and leaves the response as it was.
func read(name string, response *http.Response) (answer, error) {
	said := answer{Interceptor: name}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return said, err
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	var parsed v1beta1.InterceptorResponse
	switch {
	case response.StatusCode != http.StatusOK:
		said.Message = fmt.Sprintf("HTTP %d: %s", response.StatusCode, strings.TrimSpace(string(body)))
	case json.Unmarshal(body, &parsed) != nil:
		said.Message = "its answer is not an InterceptorResponse"
	default:
		said.Continue, said.Message, said.Extensions = parsed.Continue, parsed.Status.Message, parsed.Extensions
	}
	return said, nil
}
