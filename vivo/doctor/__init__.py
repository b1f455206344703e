"""`vivo doctor`: whether this machine can train, evaluate and report, and the fix of each thing that is wrong.

`finding.py` says what a check returns, `report.py` runs them all; the checks lie beside them, one file a subject.
"""
