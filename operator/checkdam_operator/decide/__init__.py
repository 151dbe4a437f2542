"""What the operator does about a job: pure functions over data, from `Situation` to `Decision`.

`decision` asks the others, each of which answers one question: `rollout` which version is to be deployed (`stopping`: and how the running one comes to its
end), `rescale` how it goes on with another number of workers, `pods` which pods are missing or of no use, `checkpoints` and `savepoints` what is due,
`troubles` what is in the way, `standing` what people are told in the status and `telling` in Events. Nothing here reads a clock or waits.
"""

from checkdam_operator.decide.actions import Action, Decision, Event
from checkdam_operator.decide.decision import decide

__all__ = ["Action", "Decision", "Event", "decide"]
