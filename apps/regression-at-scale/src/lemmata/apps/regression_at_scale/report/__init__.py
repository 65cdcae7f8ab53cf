"""What a fit found, as JSON for programs and as a page for people."""
