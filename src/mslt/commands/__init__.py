"""One module per command, each with `command(words)`, which returns the exit status.

What is heavy is imported inside it, once the words are checked.
"""
