from __future__ import annotations

import re

from zoo import errors


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = re.findall(r"^ *[│ ]*(?:[├└]── )?(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    defined = [name for name, value in vars(errors).items() if isinstance(value, type) and name.endswith("Error")]
    assert sorted(drawn) == sorted(defined)
    assert all(issubclass(getattr(errors, name), errors.ZooError) for name in defined)
    assert issubclass(errors.NoModelMeetsConstraintsError, errors.NotFoundError)
