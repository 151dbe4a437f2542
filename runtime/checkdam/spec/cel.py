"""Rules of the API server in its expression language, CEL, with sentences that are put together as Python's are.

The server reckons before it accepts a CRD how long each expression could take at worst. `format` on values that are cut to a known length is cheap
by that reckoning; joining texts with `+` is not.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from checkdam.spec.checks import SHOWN_LIMIT

_VALUES: Final = re.compile(r" \((was|got) [^()]*\)$")


@dataclass(frozen=True)
class Rule:
    """What must hold, with the sentence for those who break it.

    Attributes:
        cel: True where it is kept.
        sentence: With `{}` for each of `values`.
        values: CEL expressions for strings, as `cel_text` and `cel_value` make them.
    """

    cel: str
    sentence: str
    values: tuple[str, ...] = ()

    def as_validation(self) -> dict[str, Any]:
        """The rule as a CRD has it."""
        if not self.values:
            return {"rule": self.cel, "message": self.sentence}
        template = json.dumps(self.sentence.replace("%", "%%").replace("{}", "%s"), ensure_ascii=False)
        made = {"rule": self.cel, "messageExpression": f"{template}.format([{', '.join(self.values)}])"}
        # The server falls back on it where the values have line breaks.
        without_values = _VALUES.sub("", self.sentence)
        return made if "{}" in without_values else {**made, "message": without_values}


def cel_value(value: str) -> str:
    """The CEL expression that shows a number or a truth value as `checkdam.spec.checks.shown` does."""
    return f"'%s'.format([{value}])"


def cel_text(value: str) -> str:
    """The CEL expression that shows a string as `checkdam.spec.checks.shown` does."""
    return (
        f"({value}.size() <= {SHOWN_LIMIT} ? \"'%s'\".format([{value}]) "
        f": \"'%s…'\".format([{value}.substring(0, {SHOWN_LIMIT})]))"
    )
