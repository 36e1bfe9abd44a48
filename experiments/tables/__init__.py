"""Tables of accuracies and scores: reading, reporting, figures, and the paper's numbers."""
