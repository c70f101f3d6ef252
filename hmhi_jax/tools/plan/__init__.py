"""What a training or inference step needs on chips this machine does not have: compiled for them, never run."""
