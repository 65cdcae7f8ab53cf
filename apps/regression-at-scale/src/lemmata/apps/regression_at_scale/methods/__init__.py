"""What is fitted, and by which passes: least squares and ridge, robust losses, samples."""
