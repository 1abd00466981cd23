"""Answers as typed formulas: parsed, brought to one normal form per type, and compared exactly."""
