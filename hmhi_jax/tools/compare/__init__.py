"""This implementation and the authors' release side by side, on the same input and weights."""
