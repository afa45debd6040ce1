"""Networks and their life: noise2noise net, training, held-out gate, versioned store, session model."""
