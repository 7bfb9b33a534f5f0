"""Read the config of a run and find its mistakes before the run starts."""
