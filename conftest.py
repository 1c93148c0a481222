"""pytest wiring for the whole tree: everything is in harness.plugin."""

pytest_plugins = ["harness.plugin"]
