"""The public sockets, the replies to requests, and previews."""
