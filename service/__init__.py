"""The outside world: processes, sockets, terminal.

The only importer of zmq, prometheus_client, rich and click.

messages, requests       the wire: what is published, what is asked for
database, eventlog, movietable, journal   the file, the events, the movies, and the states of both
answers, publisher       replies from the journal; the sockets
cursor, link, follower, client   a subscriber: its position, its sockets, the join algorithm, the library
prometheus, systemd      metrics; readiness and watchdog
"""
