"""Names of other libraries that their releases have changed or may change, one module for each library.

Nothing else in the package reads a keyword, attribute or method of those libraries by name where its absence would go
unnoticed. ``tests/compat`` fails when a name disappears.
"""
