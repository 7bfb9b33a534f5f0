"""Loading and augmenting images."""
