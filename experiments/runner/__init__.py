"""The settings, command line, data and telemetry that the stages share."""
