#!/bin/sh
# Runs a command where nothing but loopback can be reached, if this system allows that (Linux, with user namespaces):
# then a client that gets through has needed nobody but our server.
if unshare -rn sh -c 'ip link set lo up' 2>/dev/null; then
	exec unshare -rn sh -c 'ip link set lo up && exec "$@"' sh "$@"
fi
echo "The clients could reach the network: this system gives no network namespace (unshare -rn, ip)." >&2
exec "$@"
