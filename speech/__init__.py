"""Speech corpora, their features and frame labels; NumPy only."""
