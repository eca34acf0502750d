"""Where tokens come from: the built-in engine, or lanes to other servers, all behind `proxy.backends.base`."""
