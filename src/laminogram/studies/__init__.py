"""Experiments: conditions and measures, giving plain data that the report floor draws."""
