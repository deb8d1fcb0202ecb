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
