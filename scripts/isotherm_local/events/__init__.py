"""Events as their senders make them: recorded payloads, signatures, and what a listener makes of them."""
