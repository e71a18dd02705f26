"""Values of flags that cannot work are refused before anything is done."""

import pytest

from tiny_runs import lsnn, lstm, parse
from toolbox.command_line import UserError


@pytest.mark.parametrize("name", ["truncT", "lr_decay_every"])
@pytest.mark.parametrize("value", [0, -2])
def test_switched_off_is_minus_one_only(name, value):
    with pytest.raises(UserError, match=f"--{name}={value}"):
        parse(lstm, f"--{name}={value}")
    assert getattr(parse(lstm, f"--{name}=-1"), name) == -1


@pytest.mark.parametrize(
    "script, argument",
    [
        pytest.param(lsnn, "--drop_out_probability=1", id="all inputs dropped"),
        pytest.param(lsnn, "--drop_out_probability=-0.5", id="less than none dropped"),
        pytest.param(lstm, "--momentum=1", id="Adam divides by 0"),
        pytest.param(lstm, "--seed=4294967296", id="TensorFlow takes 32 bits"),
        pytest.param(lstm, "--lr_init=nan", id="no number"),
        pytest.param(lsnn, "--truncT=99999999999", id="NumPy counts in 32 bits"),
        pytest.param(lsnn, "--tau_out=inf", id="endless filter"),
        pytest.param(lstm, "--comment=../x", id="elsewhere than in the results"),
    ],
)
def test_values_that_cannot_work_are_refused(script, argument):
    with pytest.raises(UserError, match=argument.split("=")[0]):
        parse(script, argument)
