module lab/openshift-api

go 1.24.0

require github.com/openshift/api v0.0.0-20251020135558-286504b695bc
