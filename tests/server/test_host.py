"""What a model may be asked to be loaded with."""

from __future__ import annotations

import pytest

from server.administration.host import MOST_CACHE_TOKENS, MOST_SEED, LoadWish
from server.errors import InvalidValue


@pytest.mark.parametrize(("field", "least", "most"), [("cache_tokens", 1, MOST_CACHE_TOKENS), ("seed", 0, MOST_SEED)])
def test_what_a_refusal_names_is_what_may_be_asked(field: str, least: int, most: int) -> None:
    for allowed in (least, most):
        LoadWish("fake", **{field: allowed}).check()  # type: ignore[arg-type]
    for other in (least - 1, most + 1):
        with pytest.raises(InvalidValue, match=f"^{field} must be between {least} and {most}, got {other}$"):
            LoadWish("fake", **{field: other}).check()  # type: ignore[arg-type]
