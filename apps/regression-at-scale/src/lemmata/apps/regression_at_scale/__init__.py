"""Regression and principal components on tables larger than memory, with a certificate."""
