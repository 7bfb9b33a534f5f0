"""What trained networks do with images, and what runs logged: numbers and figures."""
