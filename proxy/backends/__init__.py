"""Where tokens come from: the built-in engine now, other servers later, all behind `proxy.backends.base`."""
