"""What puts the rooms together: training, validation, evaluation, segmenting."""
