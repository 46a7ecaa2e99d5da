"""Servers brought up, put under the same load in turn, and what came of it."""
