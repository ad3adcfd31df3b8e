// Command replay tells what an EventListener would make of one HTTP request, without a cluster.
//
// Usage: replay -listener NAME [-namespace NAMESPACE] [-interceptor NAME=URL]... [-assume-secret FILE] YAML-FILE... < REQUEST
//
// Triggers' own sink handles the request, as it comes over the wire (request line, headers, body), with Triggers' own interceptors,
// bindings and templates; EventListeners, Triggers, TriggerBindings, TriggerTemplates, Interceptors and Secrets come from the files.
// Interceptors that are not Triggers' own are asked at the URL given for them. Nothing is created: runs are checked as the API server
// and Tekton's webhook would check them, and printed with the reasons of those triggers that made none, as one JSON object.
// Objects without a namespace get -namespace (or `default`); with one it also says whose listener is meant.
// A Secret that no file has is taken to hold the content of -assume-secret under the key `current`, where that is given.
// Exit 0 when the request was evaluated, 2 when it cannot be.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

type options struct {
	listener, namespace, assumed string
	urls                         map[string]string
	files                        []string
}

func parse(arguments []string) (options, error) {
	given := options{urls: map[string]string{}}
	flags := flag.NewFlagSet("replay", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&given.listener, "listener", "", "")
	flags.StringVar(&given.namespace, "namespace", "", "")
	flags.StringVar(&given.assumed, "assume-secret", "", "")
	flags.Func("interceptor", "", func(text string) error {
		name, address, found := strings.Cut(text, "=")
		if !found || name == "" || address == "" {
			return errors.New("is not NAME=URL")
		}
		given.urls[name] = address
		return nil
	})
	if err := flags.Parse(arguments); err != nil {
		return given, err
	}
	given.files = flags.Args()
	if given.listener == "" || len(given.files) == 0 {
		return given, errors.New("usage: replay -listener NAME [-namespace NAMESPACE] [-interceptor NAME=URL]... YAML-FILE... < REQUEST")
	}
	return given, nil
}

// readRequest reads a request as it comes over the wire.
func readRequest(from io.Reader) (*http.Request, error) {
	request, err := http.ReadRequest(bufio.NewReader(from))
	if err != nil {
		return nil, fmt.Errorf("the request on stdin is no HTTP request: %w", err)
	}
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, fmt.Errorf("the request on stdin ends before its body: %w", err)
	}
	request.Body = io.NopCloser(bytes.NewReader(body))
	return request, nil
}

func run(arguments []string, in io.Reader, out io.Writer) error {
	given, err := parse(arguments)
	if err != nil {
		return err
	}
	objects, err := readFiles(given.files, given.namespace)
	if err != nil {
		return err
	}
	all, err := arrange(objects, given.namespace, given.listener)
	if err != nil {
		return err
	}
	if given.assumed != "" {
		content, err := os.ReadFile(given.assumed)
		if err != nil {
			return err
		}
		all.secrets.assumed = content
	}
	request, err := readRequest(in)
	if err != nil {
		return err
	}
	told, err := all.replay(request, given.urls)
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(told)
}

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "replay:", strings.ReplaceAll(err.Error(), "\n", " "))
		os.Exit(2)
	}
}
