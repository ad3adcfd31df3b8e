"""End-to-end tests: the catalog on a real cluster. `make e2e` starts the lab and runs them."""
