"""Numbers as they are printed, and verdicts."""

import pytest

from experiments.common.results import claims


def number(mean, std=None):
    return {"mean": mean, "std": std, "values": [mean], "unit": "x"}


SHOWN = {
    "spread decides the digits": (number(0.123456, 0.00234), "0.1235 ± 0.0023"),
    "three digits without a spread": (number(0.0123456), "0.0123"),
    "zero": (number(0.0, 0.0), "0"),
    "zero without a spread": (number(0.0), "0"),
    "no spread over several seeds": (number(2.5, 0.0), "2.50"),
    "small": (number(1.234e-7, 2e-9), "(1.234 ± 0.020) x 10^-7"),
    "small without a spread": (number(1.234e-7), "1.23 x 10^-7"),
    "large": (number(123456.0, 1000.0), "(1.235 ± 0.010) x 10^5"),
    "a spread larger than the number": (number(0.01, 0.5), "0.01 ± 0.50"),
    "negative": (number(-1.5, 0.25), "-1.50 ± 0.25"),
    "integers": (number(250.0, 12.0), "250 ± 12"),
    "not finite": (number(None), "not finite"),
}


@pytest.mark.parametrize(("given", "wanted"), SHOWN.values(), ids=SHOWN.keys())
def test_numbers_have_the_digits_that_their_spread_supports(given, wanted):
    assert claims.shown(given) == wanted


def test_verdicts():
    assert claims.verdict(True) == "reproduced"
    assert claims.verdict(True, corrects=True) == "corrected"
    assert claims.verdict(False, corrects=True) == "not reproduced"


BRIEF = {
    "zero": (0.0, "0"),
    "no sign of zero": (-0.0, "0"),
    "very small": (0.0004, "< 0.01"),
    "small": (0.0123, "0.01"),
    "near one": (1.0834, "1.08"),
    "a few": (4.567, "4.6"),
    "nearly ten": (9.96, "10"),
    "whole": (2.0, "2"),
    "many": (123.4, "123"),
    "too many": (1568.0, "> 999"),
    "negative": (-0.256, "-0.26"),
    "very negative": (-4321.0, "< -999"),
    "infinite": (float("inf"), None),
    "missing": (None, None),
}


@pytest.mark.parametrize(("given", "wanted"), BRIEF.values(), ids=BRIEF.keys())
def test_numbers_of_a_plain_sentence_have_three_digits_at_most(given, wanted):
    assert claims.brief(given) == wanted
    assert sum(character.isdigit() for character in wanted or "") <= 3


def test_shares_are_in_per_cent():
    shares = (0.0, 0.0004, 0.0163, 0.4217, 0.99993, 12.5, float("nan"))
    wanted = ["0 %", "< 0.1 %", "1.6 %", "42 %", "100 %", "> 999 %", None]
    assert [claims.percent(share) for share in shares] == wanted


def test_ratios():
    assert claims.ratio(number(3.0), number(2.0)) == 1.5
    assert claims.ratio(number(3.0), number(0.0)) is None
    assert claims.ratio(number(None), number(2.0)) is None


def test_a_sentence_with_a_number_that_is_not_finite_says_so():
    template = "It leaves {a} of {b}."
    made = claims.sentence(template, a=claims.percent(0.5), b=claims.brief(2.0))
    assert made.template == template
    assert str(made) == "It leaves 50 % of 2."
    assert claims.sentence(template, a=claims.percent(0.5), b=None) == claims.NOT_FINITE
