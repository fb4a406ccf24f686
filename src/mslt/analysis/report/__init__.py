"""One self-contained page about runs: what was run, what it did, what its layers learned."""
