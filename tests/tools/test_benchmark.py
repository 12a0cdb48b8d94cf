"""The tables of tools.benchmark, and its plain evaluation."""

from pathlib import Path

import numpy as np
import pytest

from corpus.performance import Corpus
from model import PerformanceRNN
from tools.benchmark import BEGIN, END, SIZES, evaluate_plainly, format_rows, write_table
from tools.synthetic_data import make_performance
from training.evaluate import evaluate


def test_each_processor_has_one_table(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(f"before\n\n{BEGIN}\n{END}\n\nafter\n")
    for name, figure in (("Old", "1 s"), ("New", "2 s"), ("Old", "3 s")):
        write_table(page, name, format_rows([("start", figure, "")]))
    text = page.read_text()
    assert text.startswith(f"before\n\n{BEGIN}\n\n### Old\n\n| ")
    assert text.endswith(f" |\n\n{END}\n\nafter\n")
    assert text.count("### ") == 2
    assert "1 s" not in text
    assert text.index("3 s") < text.index("### New") < text.index("2 s")


def test_plain_evaluation_has_the_same_loss() -> None:
    rng = np.random.default_rng(0)
    model = PerformanceRNN(SIZES)
    corpus = Corpus([make_performance(rng.integers(0, 240, size)) for size in (20, 140, 3)])
    assert evaluate_plainly(model.eval(), corpus) == pytest.approx(evaluate(model, corpus).nats)
