"""The study: the questions that the published small run left open, each a module."""
