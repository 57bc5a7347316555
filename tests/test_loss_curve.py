"""When a run is stopped, and the plot of its losses."""

from dataclasses import replace

import matplotlib.image
import pytest

from dualasr.errors import RunError
from dualasr.model.secondary import SecondaryOptions
from dualasr.training.loss_curve import draw_loss_curve, trouble
from dualasr.training.options import TrainingOptions, check_settings


def logged(*losses, every=25, dev=()):
    rows = [{"step": every * (i + 1), "loss": loss} for i, loss in enumerate(losses)]
    return rows + [{"step": step, "dev_cer": rate} for step, rate in dev]


FALLING = (20.0, 8.0, 4.0, 3.0, 2.0, 1.5)


@pytest.mark.parametrize(
    "history, steps, reason",
    [
        (logged(*FALLING), 600, None),
        (logged(*FALLING, 2.5, 1.4), 600, None),  # one bad stretch is no trend
        (logged(*FALLING, 6.0, 5.0), 600, None),  # higher, but far below the start
        (logged(*FALLING, 14.0, 19.0), 600, "the loss rose from 1.75 to 16.50"),
        (logged(2.0, 5.0, 9.0), 600, None),  # 75 steps: too early
        (logged(float("nan")), 600, "the loss is nan"),
        (logged(20.0, float("inf")), 600, "the loss is inf"),
        (logged(*FALLING, dev=[(250, 0.99)]), 600, None),  # not half of the steps
        (
            logged(*FALLING, dev=[(250, 1.0), (500, 0.97)]),
            600,
            "it has learnt nothing: of the characters of dev 97% are wrong",
        ),
        (logged(*FALLING, dev=[(250, 0.9), (500, 0.97)]), 600, None),
        (logged(*FALLING, dev=[(150, 1.0)]), 200, None),  # a short run is only begun
        ([], 600, None),
    ],
)
def test_what_is_trouble(history, steps, reason):
    assert trouble(history, steps) == reason


def coloured(history, path):
    """Pixels of the plot in the colours of the loss and of dev CER."""
    draw_loss_curve(history, path)
    pixels = (matplotlib.image.imread(path)[:, :, :3] * 255).round().astype(int)
    return [int((pixels == colour).all(-1).sum()) for colour in ((59, 130, 196), (217, 98, 43))]


def test_a_plot_of_whatever_there_is(tmp_path):
    nothing = coloured([], tmp_path / "a.png")
    losses = coloured(logged(*FALLING), tmp_path / "b.png")
    both = coloured(logged(*FALLING, dev=[(100, 1.3), (150, 0.4)]), tmp_path / "c.png")
    assert losses[0] > nothing[0] + 100 and nothing[1] == losses[1] == 0
    assert both[0] > nothing[0] + 100 and both[1] > 100


def test_a_tracker_that_is_missing_is_named_before_the_run_begins():
    training = TrainingOptions(report_to=("clipboard",))
    with pytest.raises(RunError, match="'clipboard'; there is: tensorboard, wandb, trackio"):
        check_settings(SecondaryOptions(), training, 6)
    check_settings(SecondaryOptions(), replace(training, report_to=()), 6)
