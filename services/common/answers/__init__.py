"""Answers as text: normal forms, exact values of plain numbers, answer types. No sympy, no torch."""
