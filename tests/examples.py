"""How many examples Hypothesis tries: all of them with ``--thorough``, a quarter by default."""

from hypothesis import settings

# conftest.py loads one of them; their examples are the percentages of all.
settings.register_profile("thorough", max_examples=100)
settings.register_profile("by default", max_examples=25)


def examples(number, **options):
    """Returns the settings of a test that tries ``number`` examples with ``--thorough``."""
    share = settings().max_examples / 100
    options = {"deadline": None} | options
    return settings(max_examples=max(1, round(number * share)), **options)
