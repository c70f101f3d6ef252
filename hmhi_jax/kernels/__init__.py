"""The forms in which the mathematics of the network is fast on each platform: pure functions, no layers."""
