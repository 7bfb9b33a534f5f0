"""Reading the config of a run, and finding mistakes in it before the run."""
