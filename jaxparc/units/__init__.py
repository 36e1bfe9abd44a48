"""Units of work: checked, made, resumed and recorded, in this process or on a Ray cluster."""
