"""HTTP/JSON over a Unix socket: the operations as routes. `server` serves them, `openapi` describes them."""
