"""Load on a server: arrivals, traces, prompts, the runner and what comes out of it."""
