"""Mechanics without a science: command lines, files that appear whole, locks, figures' parts."""
