"""From tables to tables and figures."""
