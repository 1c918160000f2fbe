"""What a part of a spec says of its own LM calls: profile, adapter, parameters; in force while that part runs."""

from collections.abc import Mapping
from typing import Any, Final

import dspy
from dspy.dsp.utils.settings import settings

from dspymq.worker.executor.failures import JobError
from dspymq.worker.executor.lms import ProfileLM, with_config

LMS_SETTING: Final = "dspymq_lms"
"""Under this key DSPy's settings hold the executor's LMSet while a job runs, for parts that name a profile."""


class Scoped(dspy.Module):  # type: ignore[misc]
    """A program that runs with an LM, an adapter or parameters of its own."""

    def __init__(
        self, program: dspy.Module, profile: str | None, adapter: str | None, config: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.program = program
        self.profile = profile
        self.adapter = adapter
        self.parameters = dict(config)

    async def aforward(self, **inputs: Any) -> Any:
        """Run it. Raises JobError for a profile or parameters that cannot be used."""
        with dspy.context(**self._settings()):
            return await self.program.acall(**inputs)

    def _settings(self) -> dict[str, Any]:
        made = ProfileLM(settings.lm, settings.adapter)
        if self.profile is not None:
            made = _profile(self.profile)
        if made.lm is None:
            raise JobError("lm_not_configured", "this program needs an LM, and there is no profile `default` here")
        made = with_config(made, self.parameters)
        adapter = made.adapter if self.adapter is None else make_adapter(self.adapter, made.lm)
        return {"lm": made.lm, "adapter": adapter}


def make_adapter(name: str, lm: Any) -> dspy.Adapter:
    """The adapter of this name; `two_step` has the same LM read its own answers."""
    if name == "two_step":
        return dspy.TwoStepAdapter(lm)
    return {"chat": dspy.ChatAdapter, "json": dspy.JSONAdapter, "xml": dspy.XMLAdapter}[name]()


def _profile(name: str) -> ProfileLM:
    lms = settings.get(LMS_SETTING)
    if lms is None:
        raise JobError("lm_not_configured", "the profile of a spec cannot be chosen here")
    made: ProfileLM = lms.get(name)
    return made
