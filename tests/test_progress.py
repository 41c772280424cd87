"""Progress where there is no terminal: a line after the first step, then one every half minute."""

from __future__ import annotations

import logging

from dgcn.progress import Progress


def test_lines_with_step_rate_time_left_and_loss(caplog):
    now = 100.0
    with caplog.at_level(logging.INFO), Progress("epoch 3/9", 100, 20, clock=lambda: now) as progress:
        for loss in (7.0, 6.0, 5.0, 4.25):
            now += 10.0
            progress.step(loss=loss)
    assert caplog.messages == [
        "epoch 3/9: step 21/100, 0.10 steps/s, ETA 13:10, loss 7.000",
        "epoch 3/9: step 24/100, 0.10 steps/s, ETA 12:40, loss 4.250",
    ]


def test_lines_of_another_unit_and_none_after_the_last(caplog):
    now = 0.0
    with caplog.at_level(logging.INFO), Progress("prediction", 2, unit="image", clock=lambda: now) as progress:
        now += 2.0
        progress.step()
        now += 60.0
        progress.step()
    assert caplog.messages == ["prediction: image 1/2, 0.50 images/s, ETA 00:02"]
