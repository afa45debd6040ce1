"""The outside world: processes, sockets, terminal. The only importer of zmq, prometheus_client, rich and click."""
