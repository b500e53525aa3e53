"""One module a pipeline step; the only place where the library and the integrations meet."""
