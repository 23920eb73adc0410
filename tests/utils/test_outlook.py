"""What a command has yet to do: known only where every rate has been measured."""

from dinado_jax.utils.outlook import Outlook, Work, current, reach, work_of

WORKS = [
    Work("stage a", "1 of 2: a"),
    Work("draw", "1 of 2: a, round 1", "token", 100),
    Work("learn", "1 of 2: a, round 1", "step", 10),
    Work("draw", "1 of 2: a, round 2", "token", 300),
    Work("learn", "1 of 2: a, round 2", "step", 30),
    Work("stage b", "2 of 2: b"),
]


def test_time_left_is_that_of_what_comes_after():
    outlook = Outlook(WORKS)
    outlook.reach("draw")
    outlook.measure("token", 0.5)
    assert outlook.seconds_after() is None  # steps have not been measured
    outlook.reach("learn")
    outlook.measure("step", 2.0)
    assert outlook.seconds_after() == 300 * 0.5 + 30 * 2
    outlook.measure("step", 1.0)
    assert outlook.seconds_after() == 300 * 0.5 + 30
    outlook.reach("stage b")
    assert outlook.seconds_after() == 0


def test_work_is_reached_in_order():
    with work_of(WORKS):
        assert reach("stage a") == "1 of 2: a"
        assert reach("draw") == reach("draw") == "1 of 2: a, round 1"
        assert reach("learn") == "1 of 2: a, round 1"
        assert reach("draw") == "1 of 2: a, round 2"  # the first one is over
        assert reach("other") == "other"
        assert reach("learn") == "1 of 2: a, round 2"
    assert reach("draw") == "draw" and current().seconds_after() == 0
