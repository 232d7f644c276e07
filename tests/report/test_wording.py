from typing import get_args

import pandas as pd
import pytest

from cytoclr.config import LabelsSeen, Normalisation, SelectBy
from cytoclr.evaluate import PROTOCOLS
from cytoclr.evaluate import describe_selection as describe_choice
from cytoclr.report.wording import (
    LABELS_SEEN,
    NORMALISATIONS,
    describe_normalisation,
    describe_protocol,
    describe_selection,
    describe_training,
    list_scores,
    list_stamps,
    say_verdict,
)

SCORE = {
    "correct": 67,
    "total": 92,
    "score": 67 / 92,
    "interval": [0.59, 0.85],
    "chance": {"mean": 0.065, "p95": 0.165, "p_value": 0.001},
}


def compare(verdict: str, gain: float, low: float, high: float, **told: object) -> list[str]:
    comparison = {"a": "trained", "b": "untrained", "score": "nscb", "gain": gain, "interval": [low, high]}
    comparison |= {"verdict": verdict, "p_value": 0.012, "leaks": False, **told}
    baselines = {"untrained": {"labels_seen": "none"}, "of <mine>": {"labels_seen": "treatments"}}
    seen = {"labels_seen": told.get("labels_seen", "none")}
    return say_verdict({"nsc": SCORE, "nscb": SCORE, "comparisons": [comparison], "baselines": baselines, **seen})


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
    ("verdict", "gain", "low", "high", "words"),
    [
        ("a", 0.3, 0.12, 0.45, "It is 30 points above the untrained encoder (95\xa0% interval +12 to +45, p = 0.012)."),
        (
            "b",
            -0.1,
            -0.2,
            -0.01,
            "It is 10 points below the untrained encoder (95\xa0% interval −20 to −1, p = 0.012).",
        ),
        (
            "undecided",
            0.1,
            -0.02,
            0.2,
            "It is not told apart from the untrained encoder: +10 points, 95\xa0% interval −2 to +20, p = 0.012.",
        ),
    ],
)
def test_a_baseline_is_beaten_only_by_the_verdict(
    verdict: str, gain: float, low: float, high: float, words: str
) -> None:
    assert compare(verdict, gain, low, high)[-1] == words


def test_an_interval_without_nought_alone_ranks_nothing() -> None:
    assert "not told apart" in compare("undecided", 0.1, 0.01, 0.2, p_value=0.06)[-1]


def test_comparisons_that_leak_are_marked() -> None:
    other = compare("a", 0.3, 0.1, 0.5, b="of <mine>", leaks=True)[-1]
    assert other.startswith("It is 30 points above of <mine> (")
    assert other.endswith("). This comparison leaks: the other was told treatments.")
    own = compare("a", 0.3, 0.1, 0.5, leaks=True, labels_seen="mechanisms")
    assert own[-1] == "All these comparisons leak: this model was told mechanisms."
    assert "leak" not in own[-2]


def test_what_an_encoder_was_told_is_stamped_and_a_baseline_marked() -> None:
    assert list_stamps({"labels_seen": "none", "selection": None}) == []
    for told in ("treatments", "mechanisms"):
        assert [stamp.title for stamp in list_stamps({"labels_seen": told})] == [f"Told the {told}"]
    baselines = {
        "cell-count": {"nsc": SCORE, "labels_seen": "none"},
        "mine": {"nsc": SCORE, "labels_seen": "mechanisms"},
    }
    rows = list_scores({"nsc": SCORE, "nscb": None, "labels_seen": "plates", "baselines": baselines})
    assert [(row.name, row.told) for row in rows] == [
        ("Trained encoder", None),
        ("Cell count", None),
        ("mine", "mechanisms"),
    ]


def test_every_name_has_its_words() -> None:
    assert set(NORMALISATIONS) == set(get_args(Normalisation))
    assert set(LABELS_SEEN) == set(get_args(LabelsSeen))


def test_normalisations_are_told_in_their_order() -> None:
    first, then = describe_normalisation("plate-mad, whitening").split(" Then, ")
    assert first.startswith("First, each plate is centred and scaled on its own untreated wells (median")
    assert then.startswith("profiles are whitened")
    assert describe_normalisation(None) == ""


def test_every_known_protocol_is_told() -> None:
    for protocol in PROTOCOLS.values():
        told = " ".join(describe_protocol({"nsc": SCORE, "protocol": protocol.describe()}))
        assert f"“{protocol.name}”" in told
        assert ("single wells ask and answer" in told) == (protocol.level == "well")
        assert "For NSCB" in told
        assert "None" not in told


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"within_plates": "mean", "aggregate": "median"}, "is the median of its plates, each the mean of its wells."),
        ({"unit_wells": True}, "is the mean of its wells, each scaled to length one first."),
        ({"metric": "euclidean"}, "nearest neighbour by distance (Euclidean) is looked for among treatments of other"),
        ({"level": "well"}, "is looked for among wells of other compounds"),
        ({"neighbours": 3}, "The 3 nearest vote; of mechanisms with as many votes, that of the nearest is taken."),
        ({"shared_batches": "recompute"}, "a neighbour’s profile is made of its wells in other batches alone."),
        ({"single_batch_mechanisms": "keep"}, "Mechanisms that lie in one batch stay in NSCB"),
        ({"positive_controls": "first-batch"}, "the wells of their first batch alone take part."),
        ({"positive_controls": "drop"}, "Positive controls take no part."),
    ],
)
def test_each_choice_of_a_protocol_is_told(choices: dict, words: str) -> None:
    protocol = PROTOCOLS["treatment-mean"].describe()
    assert words not in " ".join(describe_protocol({"nsc": SCORE, "protocol": protocol}))
    assert words in " ".join(describe_protocol({"nsc": SCORE, "protocol": {**protocol, **choices}}))


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"level": "well"}, "For 67 of 92 wells (72.8\xa0%) the most similar profile of another compound in another"),
        ({"neighbours": 3}, "the 3 most similar profiles of other compounds in other batches vote for the same"),
        ({"shared_batches": "median"}, "the most similar profile that the protocol admits of another compound has the"),
    ],
)
def test_the_verdict_is_that_of_the_protocol(choices: dict, words: str) -> None:
    protocol = {**PROTOCOLS["treatment-mean"].describe(), **choices}
    assert words in say_verdict({"nsc": SCORE, "nscb": SCORE, "protocol": protocol})[0]


def choose(by: SelectBy, scores: dict) -> dict:
    epochs = pd.DataFrame({"epoch": [10, 20], "replicate_map": [0.5, 0.7], "nscb": [0.3, 0.2]})
    return describe_choice(epochs, 20, by, scores)


def test_the_choice_of_an_epoch_is_told_with_what_it_cost() -> None:
    told = describe_selection(choose("batch", {10: {"nsc": 0.75, "nscb": 0.5}, 20: {"nsc": 0.7, "nscb": 0.5}}))
    assert told == [
        "The encoder of epoch 20 was taken: of 2 measured epochs, the one with the batch least told from untreated "
        "wells. That rule looks at no mechanism.",
        "In hindsight, epoch 10 would have had the best NSC: 75.0\xa0%, 5.0 points above.",
        "In hindsight, no measured epoch has a higher NSCB.",
    ]


def test_a_choice_by_the_score_itself_is_called_so() -> None:
    chosen = choose("nscb", {10: {"nsc": 0.75, "nscb": 0.5}, 20: {"nsc": 0.7, "nscb": 0.5}})
    assert "looks at the mechanisms that the scores ask for" in describe_selection(chosen)[0]
    (stamp,) = list_stamps({"selection": chosen})
    assert stamp.text.startswith("Epoch 20 was chosen by NSCB on these very mechanisms")


def test_without_a_choice_or_without_scores_that_is_told() -> None:
    assert describe_selection(None) == ["The encoder of the last epoch was taken; there was no choice among epochs."]
    told = describe_selection(choose("last", {}))
    assert told[0] == "The encoder of epoch 20, the last, was taken, whatever the 2 measured epochs told."
    assert "the epochs were not scored" in told[1]


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
