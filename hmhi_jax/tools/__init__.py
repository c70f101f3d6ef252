"""Outbuildings: what only `runs`, `cli` and the benchmarks use."""
