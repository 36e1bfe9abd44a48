"""Units of work: done or not, made, resumed, recorded, shown."""
