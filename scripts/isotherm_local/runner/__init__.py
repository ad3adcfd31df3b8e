"""Run unmodified Tekton YAML on this machine: each step is a process in the environment of its image family."""
