from __future__ import annotations

import copy
import pickle
import re

from zoo import errors


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = re.findall(r"^ *[│ ]*(?:[├└]── )?(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    defined = [name for name, value in vars(errors).items() if isinstance(value, type) and name.endswith("Error")]
    assert sorted(drawn) == sorted(defined)
    assert all(issubclass(getattr(errors, name), errors.ZooError) for name in defined)
    assert issubclass(errors.NoModelMeetsConstraintsError, errors.NotFoundError)


def test_errors_cross_from_one_process_to_another() -> None:
    """Where one cannot be made again, a pool of processes waits for ever, or breaks."""
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and name.endswith("Error"):
            found = kind("what came")
            vars(found).update(dict.fromkeys(vars(found), 7))
            for again in (pickle.loads(pickle.dumps(found)), copy.copy(found)):
                assert (type(again), str(again), vars(again)) == (kind, str(found), vars(found))
