"""Fields as microscopes really show them: crystals, film edges, uneven ice, crowds, filaments, with a known truth."""
