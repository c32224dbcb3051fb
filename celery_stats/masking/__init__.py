"""Decides what may be seen of an answer. Knows no HTTP and no broker."""
