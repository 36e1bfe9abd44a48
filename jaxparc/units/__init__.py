"""Run units of work, resumable and recorded, in this process or on a Ray cluster."""
