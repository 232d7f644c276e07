"""Scores and comparisons in words, for the terminal."""

from typing import Any

import typer

__all__ = ["tell_comparison", "tell_scores"]


def tell_scores(scores: dict[str, Any]) -> None:
    """Say what was scored, then each table of features on a few lines, then what must be known of it."""
    counts = ", ".join(f"{number:,} {name}" for name, number in scores["counts"].items())
    typer.echo(f"scored   {counts}")
    typer.echo(f"by       protocol {scores['protocol']['name']}, normalisation {scores['normalisation']}")
    beside = {(of["b"], of["score"]): of for of in scores["comparisons"]}
    for features, values in {"this": scores, **scores["baselines"]}.items():
        typer.echo(features)
        for name in ("nsc", "nscb"):
            if values[name]:
                typer.echo(f"  {name.upper():<5}{_describe_score(values[name])}{_rank(beside.get((features, name)))}")
        if features == "this" and values["drop"] is not None:
            typer.echo(f"  drop {100 * values['drop']:.1f} points from NSC to NSCB on the same treatments")
        _tell_measures(values)
    _tell_nuisance(scores["nuisance"])
    of = scores["geometry"]
    if of["effective_rank"]:
        typer.echo(f"rank     {of['effective_rank']:.1f} effective, of {of['num_features']} features")
    _tell_protocols(scores.get("protocols", {}))
    for note in scores["notes"]:
        typer.echo(f"note     {note}")


def _describe_score(score: dict[str, Any]) -> str:
    low, high = score["interval"]
    return (
        f"{score['correct']} of {score['total']} = {score['score']:.1%} [{low:.0%}, {high:.0%}], "
        f"chance {score['chance']['mean']:.0%}"
    )


def _rank(comparison: dict[str, Any] | None) -> str:
    """How a baseline stands to the profiles that are scored."""
    if comparison is None:
        return ""
    words = {"a": "worse than this", "b": "better than this", "undecided": "not told apart from this"}
    low, high = comparison["interval"]
    gain, low, high = (0.0 - 100 * value for value in (comparison["gain"], high, low))  # never -0.0
    return (
        f"; {words[comparison['verdict']]} ({gain:+.1f} points [{low:+.1f}, {high:+.1f}])"
        f"{', leaks' if comparison['leaks'] else ''}"
    )


def _tell_measures(values: dict[str, Any]) -> None:
    if values["activity"]:
        of = values["activity"]
        low, high = of["interval"]
        typer.echo(
            f"  mAP  {of['map']:.2f} [{low:.2f}, {high:.2f}] of replicates against controls, chance "
            f"{of['chance']:.2f}; {of['active']} of {of['total']} treatments active"
        )
    shares = [
        f"{of['share']:.0%} {word} ({of[word]} of {of['total']}, chance {of['chance']:.0%})"
        for word in ("replicating", "matching")
        if (of := values[word])
    ]
    if shares:
        typer.echo(f"  {', '.join(shares)}")


def _tell_nuisance(nuisance: dict[str, Any]) -> None:
    for name in ("batch", "plate"):
        told = {when: of[name] for when, of in nuisance.items() if of is not None and of[name] is not None}
        if told:
            shares = ", ".join(f"{of['balanced_accuracy']:.0%} {when} normalisation" for when, of in told.items())
            typer.echo(f"{name:<9}of untreated wells told: {shares}, chance {next(iter(told.values()))['chance']:.0%}")


def _tell_protocols(protocols: dict[str, Any]) -> None:
    for name, scored in protocols.items():
        told = [f"{score.upper()} {_describe_score(scored[score])}" for score in ("nsc", "nscb") if scored.get(score)]
        text = "; ".join(told) or scored.get("reason", "no score")
        typer.echo(f"protocol {name:<15} {text} ({scored['normalisation']})")


def tell_comparison(found: dict[str, Any]) -> None:
    """Say what was compared, and whether the difference is outside the noise."""
    for side in "ab":
        of = found[side]
        seeds = f"{of['num_seeds']} seed{'s' * (of['num_seeds'] > 1)}"
        typer.echo(f"{side.upper()}        {of['name']} ({seeds}, normalisation {'; '.join(of['normalisation'])})")
    for name in ("nsc", "nscb"):
        compared = found[name]
        if compared is None:
            typer.echo(f"{name.upper():<5}    not answered by both")
            continue
        low, high = compared["interval"]
        verdict = {"a": "A is better", "b": "B is better", "undecided": "not told apart"}[compared["verdict"]]
        a, b = (sum(scores) / len(scores) for scores in compared["scores"].values())
        typer.echo(
            f"{name.upper():<5}    A {a:.1%}, B {b:.1%} on the same {compared['num_treatments']} treatments of "
            f"{compared['num_compounds']} compounds: {100 * compared['gain']:+.1f} points "
            f"[{100 * low:+.1f}, {100 * high:+.1f}], p = {compared['p_value']:.2g}: {verdict}"
        )
    typer.echo(f"protocol {found['protocol']['name']}")
    for note in found["notes"]:
        typer.echo(f"note     {note}")
