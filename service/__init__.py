"""The outside world: processes, sockets, terminal. The only importer of zmq, prometheus_client, rich and click.

cli, demo                          commands; the whole system on a simulated microscope
daemon, offline, subscribers       the one loop; the same work by hand; the monitor and the picker
processes, publishing, health      worker and trainer; public sockets; alarms, status, metrics, systemd
journal                            movies, their states, every event; the only SQL
layout, named_versions, config     where things are, which versions settings name, all settings
client, wire                       what strangers import: the subscriber's library, the protocol
relion, report                     reserved
"""
