"""One and the same load on several architectures, and what can be said of the difference."""
