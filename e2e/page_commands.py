"""The commands of the pages that need a cluster: tests get them from here, by page and section, and run them to the letter.

`tests/docs` looks up what tests ask for, so that no page has a command that none of them runs, unless it is in `NOT_RUN`.
"""

from __future__ import annotations

import re
from typing import Final

from installation import PROJECT

_ARGO_CD: Final = "needs Argo CD, and repositories that it reads; `tests/gitops` looks into the files"
_FLUX: Final = "needs Flux, and repositories that it reads; `tests/gitops` looks into the files"
NOT_RUN: Final = {
    "helm install checkdam charts/checkdam --namespace checkdam --create-namespace"
    " --set image.repository=registry.example/checkdam/operator"
    " --set jobs.image.repository=registry.example/checkdam/runtime": "there is no such registry; the README's is run",
    "kubectl apply --filename gitops/argocd/operator.yaml --filename gitops/argocd/jobs.yaml": _ARGO_CD,
    "kubectl apply --filename gitops/flux/operator.yaml --filename gitops/flux/jobs.yaml": _FLUX,
    "flux get kustomizations": _FLUX,
}
"""Command → why no test can run it."""


def blocks(page: str, section: str, kind: str) -> list[str]:
    """The fenced blocks of a kind in a section.

    Args:
        page: File of the project.
        section: Its heading, of the second level; empty for what comes before the first.
        kind: All that is said behind the fence, such as `sh manual`.
    """
    whole = "\n" + (PROJECT / page).read_text()
    text = (whole.partition(f"\n## {section}\n")[2] if section else whole).partition("\n## ")[0]
    return re.findall(rf"^```{re.escape(kind)}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(page: str, section: str) -> list[str]:
    """The commands of a section that need a cluster and can be run on one, one a line.

    Raises:
        LookupError: There are none.
    """
    found = [line for block in blocks(page, section, "sh manual") for line in block.splitlines()]
    if not found:
        raise LookupError(f"{page} has no commands that need a cluster in its section `{section}`")
    return [command for command in found if command not in NOT_RUN]
