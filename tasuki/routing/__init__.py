"""Who serves a key: the same answer that Envoy gives, bit for bit."""
