"""The Legendre Memory Unit, its mapping to spiking neurons, and what these remember."""
