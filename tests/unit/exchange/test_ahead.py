"""Work beside the training step: in order, errors where the result is asked for, no thread left."""

import copy
import threading

import pytest
import torch

from dicm_kit.exchange.ahead import Ahead


def test_jobs_are_done_one_after_the_other_beside_what_goes_on() -> None:
    ahead, done, may = Ahead("beside"), [], threading.Event()

    def first() -> str:
        assert may.wait(10)  # this thread goes on meanwhile
        done.append("first")
        return threading.current_thread().name

    one, two = ahead.do(first), ahead.do(lambda: done.append("second"))
    assert not one.wait(0.01)
    may.set()
    assert two.result() is None
    assert (one.result(), done) == ("beside", ["first", "second"])
    ahead.close(10)
    assert "beside" not in [each.name for each in threading.enumerate()]


def test_an_error_is_raised_where_the_result_is_asked_for_and_the_next_job_is_done() -> None:
    ahead = Ahead("beside")
    broken, whole = ahead.do(lambda: 1 // 0), ahead.do(lambda: 7)
    with pytest.raises(ZeroDivisionError):
        broken.result()
    assert whole.result() == 7
    ahead.close(10)


def test_nothing_is_kept_for_a_gradient() -> None:
    ahead, weight = Ahead("beside"), torch.ones(1, requires_grad=True)
    assert not ahead.do(lambda: 2 * weight).result().requires_grad
    ahead.close(10)


def test_it_ends_without_a_job_that_waits_for_ever_and_can_begin_again() -> None:
    ahead, never = Ahead("beside"), threading.Event()
    stuck = ahead.do(never.wait)
    ahead.close(0.01)
    assert not stuck.wait(0)
    assert ahead.do(lambda: 1).result() == 1
    ahead.close(10)
    never.set()
    assert stuck.result()


def test_a_module_that_has_one_can_be_copied() -> None:
    assert copy.deepcopy(Ahead("beside")).do(lambda: 1).result() == 1
