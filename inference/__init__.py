"""What was trained, in use: runs evaluated on any data, speech transcribed, networks in Nengo."""
