"""One module for each family of models: its configuration, and the code of its modules.

A module defines `ARCHITECTURES`, a tuple of `architecture.Architecture`; to add a family, add its declaration to
`spmd.families` and a module here.
"""
