"""The kinds of networks: each module here is an `entry.Implementation`."""
