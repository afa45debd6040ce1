"""Networks and their life cycle: noise2noise net, training, held-out gate, versioned store, session model."""
