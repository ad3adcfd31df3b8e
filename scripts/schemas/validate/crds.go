package main

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

// crd holds one kind's schema in the two forms that the API server uses: one to find unknown fields, one to check values.
type crd struct {
	structural *structuralschema.Structural
	validator  validation.SchemaValidator
}

type crds map[string]crd

// loadCRDs reads every v1 schema of the CustomResourceDefinitions in a folder.
func loadCRDs(folder string) (crds, error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		return nil, err
	}
	schemas := crds{}
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
			if version.Name != "v1" {
				continue
			}
			schema, err := compile(version.Schema)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			schemas[definition.Spec.Names.Kind] = schema
		}
	}
	for _, kind := range []string{"Task", "Pipeline", "PipelineRun"} {
		if _, found := schemas[kind]; !found {
			return nil, fmt.Errorf("no CustomResourceDefinition of kind %s in %s", kind, folder)
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

// check names the fields of a document that the kind's schema does not know, and the values that it does not allow.
func (schemas crds) check(kind string, document []byte) []string {
	var object map[string]any
	if err := yaml.Unmarshal(document, &object); err != nil {
		return []string{err.Error()}
	}
	var complaints []string
	options := structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
	for _, path := range pruning.PruneWithOptions(object, schemas[kind].structural, true, options) {
		complaints = append(complaints, fmt.Sprintf("unknown field %q", path))
	}
	for _, complaint := range validation.ValidateCustomResource(field.NewPath(""), object, schemas[kind].validator) {
		complaints = append(complaints, complaint.Error())
	}
	return complaints
}
