import pytest

from cytoclr.report.wording import describe_training, list_scores, say_verdict

SCORE = {
    "correct": 67,
    "total": 92,
    "score": 67 / 92,
    "interval": [0.59, 0.85],
    "chance": {"mean": 0.065, "p95": 0.165, "p_value": 0.001},
}


def compare(gain: float, low: float, high: float) -> list[str]:
    comparison = {"a": "trained", "b": "untrained", "score": "nscb", "gain": gain, "interval": [low, high]}
    return say_verdict({"nsc": SCORE, "nscb": SCORE, "comparisons": [comparison]})


def test_the_verdict_names_cases_and_chance() -> None:
    first, chance = say_verdict({"nsc": SCORE, "nscb": SCORE})
    assert first.startswith("For 67 of 92 treatments (72.8\xa0%)")
    assert "another batch" in first
    assert chance == "With mechanisms dealt out at random it is 6.5\xa0% (p = 0.001)."


def test_without_batches_the_verdict_is_of_nsc() -> None:
    assert "(NSC)" in say_verdict({"nsc": SCORE, "nscb": None})[0]


def test_a_score_within_chance_is_called_so() -> None:
    weak = {**SCORE, "chance": {**SCORE["chance"], "p_value": 0.3}}
    assert "not told apart from chance" in say_verdict({"nsc": weak, "nscb": weak})[1]


@pytest.mark.parametrize(
    ("gain", "low", "high", "words"),
    [
        (0.3, 0.12, 0.45, "It is 30 points above the untrained encoder (95\xa0% interval +12 to +45)."),
        (-0.1, -0.2, -0.01, "It is 10 points below the untrained encoder (95\xa0% interval −20 to −1)."),
        (0.1, -0.02, 0.2, "It is not told apart from the untrained encoder: +10 points, 95\xa0% interval −2 to +20."),
    ],
)
def test_a_baseline_is_beaten_only_outside_the_interval(gain: float, low: float, high: float, words: str) -> None:
    assert compare(gain, low, high)[-1] == words


def test_without_mechanisms_the_reason_is_told() -> None:
    assert say_verdict({"nsc": None, "reason": "No mechanism table."}) == ["No mechanism table."]
    assert list_scores({"nsc": None}) == []


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([3.0, 2.0, 1.5], "lowest at the end (1.50)."),
        ([3.0, 2.0, 2.5], "lowest in epoch 2 (2.00) and ended at 2.50."),
    ],
)
def test_the_training_is_put_in_words(losses: list[float], words: str) -> None:
    metrics = [
        {"event": "epoch", "epoch": i, "train_loss": 5.0 - i, "val_loss": loss} for i, loss in enumerate(losses, 1)
    ]
    first, second = describe_training(metrics)
    assert first == "The training loss went from 4.00 to 2.00 in 3 epochs."
    assert second.endswith(words)


def test_lines_without_losses_say_nothing() -> None:
    assert describe_training([{"event": "probe", "epoch": 0, "probe_accuracy": 0.2}]) == []
