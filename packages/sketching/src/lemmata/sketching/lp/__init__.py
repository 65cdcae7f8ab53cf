"""Importance of rows for l_p regression, and coresets drawn by it."""
