"""Layers of neurons and cells: dynamics and gradients, in TensorFlow and compiled for the CPU."""
