"""Small parts without a model in them."""
