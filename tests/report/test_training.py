"""The training section: the curves that a run has, in words and figures; and by what views differ."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import make_metrics

from cytoclr.config import AugmentSettings, ReportSettings
from cytoclr.report import ReportInputs, write_report
from cytoclr.report.training import MAX_STEPS, describe_augment, list_curves, say_collapse, thin_steps

#: What lines held before training was watched.
OLD = {"event", "epoch", "step", "train_loss", "val_loss", "learning_rate", "cells_per_s"}


def forget_new(lines: list[dict]) -> list[dict]:
    return [{name: value for name, value in line.items() if name in OLD} for line in lines]


def test_every_curve_is_drawn_of_what_a_run_has() -> None:
    curves = list_curves(make_metrics(6))
    assert [curve.key for curve in curves] == [
        *("loss", "geometry", "rank", "gradient", "rate", "speed", "wait", "probe"),
    ]
    assert [(line.key, line.event) for line in curves[0].lines] == [
        ("train_loss", "step"),
        ("train_loss", "epoch"),
        ("val_loss", "epoch"),
    ]
    assert all(curve.sentence.endswith(".") for curve in curves)


def test_an_older_run_has_the_curves_that_it_can_have() -> None:
    assert [curve.key for curve in list_curves(forget_new(make_metrics(3)))] == ["loss", "rate", "speed"]
    empty = [{"event": "epoch", "epoch": 1, "step": 3, "train_loss": 2.0, "grad_norm": None}]
    assert [curve.key for curve in list_curves(empty)] == ["loss"]
    assert list_curves([]) == []


def test_the_probe_s_counts_are_not_drawn() -> None:
    lines = [
        {"event": "epoch", "epoch": 1, "step": 9, "probe_accuracy": 0.4, "probe_cells": 900.0, "probe_own_f1": 0.2}
    ]
    (curve,) = list_curves(lines)
    assert [line.name for line in curve.lines] == ["accuracy", "own f1"]


def test_a_page_holds_no_more_steps_than_can_be_seen() -> None:
    lines = [{"event": "step", "epoch": 1, "step": step} for step in range(3 * MAX_STEPS)]
    lines.insert(7, {"event": "epoch", "epoch": 1, "step": 7})
    kept = thin_steps(lines)
    assert len(kept) == MAX_STEPS + 1
    assert kept[0]["step"] == 0
    assert [line for line in kept if line["event"] == "epoch"] == [lines[7]]
    assert [line["step"] for line in kept if line["event"] == "step"] == list(range(0, 3 * MAX_STEPS, 3))
    assert thin_steps(lines[:20]) == lines[:20]


@pytest.mark.parametrize(
    ("collapsed", "words"),
    [
        ([], None),
        ([4, 5, 6], "The encoder collapsed in epoch 4 and has not come back"),
        ([4, 5], "The encoder had collapsed in epoch 4, and came back after epoch 5."),
    ],
)
def test_a_collapse_is_said(collapsed: list[int], words: str | None) -> None:
    lines = [{"event": "epoch", "epoch": i, **({"collapsed": 1.0} if i in collapsed else {})} for i in range(1, 7)]
    found = say_collapse(lines)
    assert (found is None) if words is None else (found or "").startswith(words)


def test_nuisances_are_named_with_their_amounts() -> None:
    on, off = describe_augment(AugmentSettings())
    assert "the way up (any angle)" in on
    assert "brightness ÷ or × up to 1.65)" in on
    assert "80\xa0% to 100 % of the area" in on
    assert off == "Left off: bending, uneven light, failed stains, cut-out, photon noise."
    on, *_ = describe_augment(AugmentSettings(preset="seed-2020"))
    assert "the way up" not in on
    assert "blur of up to 2 px, in 50\xa0% of views" in on
    halved = describe_augment(AugmentSettings(strength=0.5))[0]
    assert "× up to 1.28)" in halved
    assert len(describe_augment(AugmentSettings(preset="strong"))) == 1
    still = AugmentSettings(min_scale=1.0, rotate=False, flip=False, strength=0.0)
    assert describe_augment(still)[0] == "Views do not differ: nothing is augmented."


def test_the_page_says_it_and_an_older_run_s_page_is_drawn_too(tmp_path: Path, inputs: ReportInputs) -> None:
    lines = [*make_metrics(6), {"event": "epoch", "epoch": 7, "step": 210, "train_loss": 5.5, "collapsed": 1.0}]
    write_report(tmp_path / "new.html", replace(inputs, metrics=lines), ReportSettings(), seed=0)
    page = (tmp_path / "new.html").read_text(encoding="utf-8")
    assert 'id="curve-wait"' in page
    assert "Views differ by the way up" in page
    assert page.count("another view") >= 4
    assert "The encoder collapsed in epoch 7" in page
    old = replace(inputs, metrics=forget_new(make_metrics(6)), views=None, augment=None)
    write_report(tmp_path / "old.html", old, ReportSettings(), seed=0)
    page = (tmp_path / "old.html").read_text(encoding="utf-8")
    assert 'id="curve-loss"' in page
    assert 'id="curve-wait"' not in page
    assert "<h3>Views</h3>" not in page
