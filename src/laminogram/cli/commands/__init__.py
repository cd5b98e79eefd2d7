"""The commands: `NAME.py` holds the click command `command`, found by its file name.

A command's file imports click and this package's small helpers at the top, and everything heavy
(torch, numpy, the rest of laminogram) inside the function, so that help stays instant.
"""
