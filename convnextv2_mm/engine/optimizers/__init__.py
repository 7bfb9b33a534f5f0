"""Groups of parameters with their own learning rates."""
