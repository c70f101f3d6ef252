"""PyTorch weights in and out, weight files, comparison with the authors' release."""
