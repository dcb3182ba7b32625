"""Search spaces: points by hand, by grid, at random."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from orchestrator.tuning.space import Domain, at_random, corners, grid, size

DOMAIN: TypeAdapter[Any] = TypeAdapter(Domain)


def space(**fields: object) -> dict[str, Any]:
    return {field: DOMAIN.validate_python(value) for field, value in fields.items()}


def test_values_at_a_share_of_the_way() -> None:
    domains = space(
        c={"choice": ["a", "b", "c", "d"]},
        u={"uniform": [2, 4]},
        g={"loguniform": [1e-4, 1e-2]},
        i={"integer": [1, 3]},
        j={"loginteger": [1, 8]},
    )
    assert [domains["c"].draw(share) for share in (0, 0.49, 0.5, 0.999)] == ["a", "b", "c", "d"]
    assert domains["u"].draw(0.25) == 2.5
    assert domains["g"].draw(0.5) == pytest.approx(1e-3)
    assert [domains["i"].draw(share) for share in (0, 0.34, 0.67, 0.999)] == [1, 2, 3, 3]
    assert (domains["j"].draw(0), domains["j"].draw(0.999)) == (1, 8)


@given(
    low=st.floats(1e-6, 1e3),
    factor=st.floats(1.001, 1e4),
    share=st.floats(0, 1, exclude_max=True),
    whole=st.integers(1, 99),
)
def test_no_value_leaves_its_range(low: float, factor: float, share: float, whole: int) -> None:
    for kind in ("uniform", "loguniform"):
        assert low <= DOMAIN.validate_python({kind: [low, low * factor]}).draw(share) <= low * factor
    for kind in ("integer", "loginteger"):
        assert whole <= DOMAIN.validate_python({kind: [whole, whole + 7]}).draw(share) <= whole + 7


def test_a_grid_varies_its_last_field_first() -> None:
    fields = space(a=[1, 2], b={"integer": [3, 5]})
    assert size(fields) == 6
    assert [tuple(point.values()) for point in grid(fields)] == list(itertools.product([1, 2], [3, 4, 5]))
    assert size(space(a=[1, 2], b={"uniform": [0, 1]})) is None


def test_random_points_are_the_same_however_many_are_taken_and_none_comes_twice() -> None:
    fields = space(a=[1, 2, 3], b=[True, False], c={"uniform": [0, 1]})
    few, many = (list(itertools.islice(at_random(fields, seed=7), n)) for n in (3, 9))
    assert few == many[:3]
    assert list(itertools.islice(at_random(fields, seed=8), 3)) != few
    finite = list(at_random(space(a=[1, 2, 3], b=[True, False]), seed=0))
    assert len(finite) == 6
    assert len({tuple(point.items()) for point in finite}) == 6


def test_corners_hold_every_choice_and_both_ends_of_every_range() -> None:
    points = list(corners(space(a=[1, 2, 3], b={"integer": [5, 5000]}, c={"loguniform": [0.1, 10]})))
    assert len(points) == 3
    assert {point["a"] for point in points} == {1, 2, 3}
    assert {point["b"] for point in points} == {5, 5000}
    assert {point["c"] for point in points} == {0.1, 10}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"chioce": [1]}, "one of choice, uniform"),
        ({"choice": [1], "uniform": [0, 1]}, "one of choice, uniform"),
        (3, "one of choice, uniform"),
        ({"choice": []}, "choice"),
        ([1, 2, 1], "repeats"),
        ({"uniform": [2, 1]}, "must be below"),
        ({"loguniform": [0, 1]}, "above 0"),
        ({"integer": [1.5, 2]}, "integer"),
    ],
)
def test_a_field_that_is_no_domain_is_told_what_would_be_one(value: object, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        DOMAIN.validate_python(value)
