"""All that pytest needs to know of the lab."""

pytest_plugins = ["harness.plugin"]
