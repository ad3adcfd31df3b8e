package main

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

// crd holds one kind's schema in the two forms that the API server uses: one to find unknown fields, one to check values.
type crd struct {
	structural *structuralschema.Structural
	validator  validation.SchemaValidator
}

type crds map[schema.GroupVersionKind]crd

// loadCRDs reads every schema of the CustomResourceDefinitions in a folder.
func loadCRDs(folder string) (crds, error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		return nil, err
	}
	schemas := crds{}
	groups := map[string]bool{}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var definition apiextensionsv1.CustomResourceDefinition
		if err := yaml.Unmarshal(content, &definition); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for _, version := range definition.Spec.Versions {
			if version.Schema == nil {
				continue
			}
			compiled, err := compile(version.Schema)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			kind := schema.GroupVersionKind{Group: definition.Spec.Group, Version: version.Name, Kind: definition.Spec.Names.Kind}
			schemas[kind] = compiled
			groups[kind.Group] = true
		}
	}
	for _, group := range []string{"tekton.dev", "serving.kserve.io", "route.openshift.io", "console.openshift.io"} {
		if !groups[group] {
			return nil, fmt.Errorf("no CustomResourceDefinition of group %s in %s", group, folder)
		}
	}
	return schemas, nil
}

func compile(schema *apiextensionsv1.CustomResourceValidation) (crd, error) {
	var internal apiextensions.CustomResourceValidation
	if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(schema, &internal, nil); err != nil {
		return crd{}, err
	}
	structural, err := structuralschema.NewStructural(internal.OpenAPIV3Schema)
	if err != nil {
		return crd{}, err
	}
	validator, _, err := validation.NewSchemaValidator(internal.OpenAPIV3Schema)
	return crd{structural: structural, validator: validator}, err
}

// hasGroup tells whether a group's kinds are defined here.
func (schemas crds) hasGroup(group string) bool {
	for kind := range schemas {
		if kind.Group == group {
			return true
		}
	}
	return false
}

// check names the fields of a document that the kind's schema does not know, and the values that it does not allow. Groups
// without schemas here are passed over.
func (schemas crds) check(kind schema.GroupVersionKind, document []byte) []string {
	known, found := schemas[kind]
	if !found {
		if schemas.hasGroup(kind.Group) {
			return []string{fmt.Sprintf("%s has no kind %s", kind.GroupVersion(), kind.Kind)}
		}
		return nil
	}
	var object map[string]any
	if err := yaml.Unmarshal(document, &object); err != nil {
		return []string{err.Error()}
	}
	var complaints []string
	options := structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
	for _, path := range pruning.PruneWithOptions(object, known.structural, true, options) {
		complaints = append(complaints, fmt.Sprintf("unknown field %q", path))
	}
	// As the API server does before it looks at values: a Route's schema counts on the defaults of fields that are left out.
	defaulting.Default(object, known.structural)
	for _, complaint := range validation.ValidateCustomResource(field.NewPath(""), object, known.validator) {
		complaints = append(complaints, complaint.Error())
	}
	return complaints
}
