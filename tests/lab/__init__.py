"""The lab: a real one-node Kubernetes with Tekton and KServe on one machine, part by part."""
