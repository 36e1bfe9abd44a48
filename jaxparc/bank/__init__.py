"""Models and labels in, a ranking out."""
