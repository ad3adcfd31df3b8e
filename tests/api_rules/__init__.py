"""What an API must do, whichever it is: one suite for the embedded API (tests/local) and a real API server (tests/e2e).

`objects`, `clients` and `programs` are tests that hold on both. `answers` is a table of requests with the answer that
both give, `differences` one of those that differ on purpose, which docs/parity.md shows; `table` tests their rows.
The importing module has the fixture `api`.
"""
