"""Answers as text: one spelling for equal ones, exact values of plain numbers, types of golds. No
sympy, no torch.
"""
