"""Programs that measure; docs/benchmarks.md has what they printed."""
