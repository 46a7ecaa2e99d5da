"""Findings as sentences, tables, plots, a page and files; and the gate that holds them against older ones."""
