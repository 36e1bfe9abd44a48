"""The command line, folders, data and telemetry that the stages share."""
