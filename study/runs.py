"""Where the study's runs, results and figures are, and whom it compares."""

from __future__ import annotations

from pathlib import Path

from compete.runs import RunFile

STUDY = Path(__file__).resolve().parent
RESULTS = STUDY / "results"
FIGURES = STUDY / "figures"
CONDITIONS = RunFile(RESULTS / "conditions.jsonl")
MECHANISM = RunFile(RESULTS / "mechanism.jsonl")
PAIR = ("relu", "lwta")
ALL_THREE = (*PAIR, "sigmoid")
