"""What the package needs to run on the releases of MM that it meets."""
