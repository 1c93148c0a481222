"""Runs on disk, and the page that people read: results store, JUnit, HTML, live view; and what a run is made of.

A run is a folder under `build/reports`: events while it goes on, one JSON when it has ended, JUnit and
`index.html` beside it.
"""
