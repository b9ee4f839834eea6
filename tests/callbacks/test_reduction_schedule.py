import math

import pytest

from keras_bmr.callbacks import ReductionSchedule


def test_rounds_come_at_the_epochs_asked_for():
    schedule = ReductionSchedule(0.9, start=3, every=2, rounds=3)
    rounds = {epoch: schedule.round_after(epoch) for epoch in range(12)}
    assert {e: r for e, r in rounds.items() if r is not None} == {2: 0, 4: 1, 6: 2}


def test_a_round_prunes_a_share_of_what_is_left():
    schedule = ReductionSchedule(0.95, share=(0.5, 0.2))
    assert schedule.target(0, 0.0) == pytest.approx(0.5)
    assert schedule.target(1, 0.5) == pytest.approx(0.6)
    assert schedule.target(7, 0.9) == pytest.approx(0.92)
    assert schedule.target(7, 0.945) == 0.95


def test_last_epoch_is_when_the_sparsity_is_reached():
    # 1 -> 0.5 -> 0.25 -> 0.125 -> 0.1: rounds after epochs 4, 6, 8 and 10.
    schedule = ReductionSchedule(0.9, start=4, every=2, share=0.5)
    assert schedule.last_epoch() == 10
    assert ReductionSchedule(0.9, share=0.5, rounds=2).last_epoch() == math.inf


def test_targets_rise_round_by_round():
    schedule = ReductionSchedule([0.1, 0.5, 0.99], start=3, every=10)
    rounds = {epoch: schedule.round_after(epoch) for epoch in range(40)}
    assert {e: r for e, r in rounds.items() if r is not None} == {2: 0, 12: 1, 22: 2}
    # What was reached by other means does not matter.
    assert [schedule.target(i, 0.4) for i in range(3)] == [0.1, 0.5, 0.99]
    assert schedule.last_epoch() == 23
    assert ReductionSchedule([0.1, 0.5], rounds=1).last_epoch() == math.inf


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "Received: sparsity=1.0"),
        ({"sparsity": 0.0}, "Received: sparsity=0.0"),
        ({"sparsity": []}, r"Received: sparsity=\[\]"),
        ({"sparsity": [0.5, 1.0]}, r"Received: sparsity=\[0.5, 1.0\]"),
        ({"sparsity": [0.5, 0.4]}, r"must rise.*Received: sparsity=\[0.5, 0.4\]"),
        ({"sparsity": 0.9, "start": 0}, "Received: start=0"),
        ({"sparsity": 0.9, "every": 1.5}, "Received: every=1.5"),
        ({"sparsity": 0.9, "rounds": 0}, "Received: rounds=0"),
        ({"sparsity": 0.9, "share": 1.0}, "Received: share=1.0"),
        ({"sparsity": 0.9, "share": ()}, r"Received: share=\(\)"),
        ({"sparsity": 0.9, "share": (0.5, 0.0)}, r"Received: share=\(0.5, 0.0\)"),
        ({"sparsity": 0.9, "ranking": "unit"}, "Received: ranking='unit'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ReductionSchedule(**arguments)
