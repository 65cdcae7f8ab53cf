"""Least squares by sketching: the accuracy of QR in two passes over the rows."""
