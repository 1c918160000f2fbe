"""Programs that are made of programs, as asynchronous modules: DSPy's own of this kind are synchronous, print, and
share counters between calls."""

import asyncio
import inspect
import json
import logging
import types
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Final

import dspy
from dspy.dsp.utils.settings import settings
from dspy.predict.refine import OfferFeedback, inspect_modules
from pydantic_core import to_jsonable_python

from dspymq.worker.executor.failures import JobError
from dspymq.worker.executor.registry import in_thread
from dspymq.worker.executor.spec_plan import Plan

log = logging.getLogger("dspymq.worker.specs")

MAX_ITEMS: Final = 1_000
ITEMS_AT_ONCE: Final = 8
DRAFT_TEMPERATURE: Final = 0.7
HINT: Final = "hint_"
Score = Callable[[Mapping[str, Any], Any], Any]


class Reward:
    """A number for a prediction; `text` says to a model what earns it."""

    def __init__(self, function: Score, text: str) -> None:
        self._function = function
        self.text = text

    async def of(self, inputs: Mapping[str, Any], prediction: Any) -> float:
        """The score. Raises whatever the function does, and TypeError or ValueError if it gives no number."""
        if inspect.iscoroutinefunction(self._function):
            return float(await self._function(inputs, prediction))
        return float(await in_thread(self._function, inputs, prediction))


def judging(judge: dspy.Module, fields: tuple[str, ...], score: str) -> Score:
    """The reward that a judging program gives: its inputs are the outputs and inputs of the same names."""

    async def judged(inputs: Mapping[str, Any], prediction: Any) -> float:
        known = {**inputs, **dict(prediction.items())}
        found = await judge.acall(**{name: known[name] for name in fields if name in known})
        return float(found[score])

    return judged


class BestOf(dspy.Module):  # type: ignore[misc]
    """The best of up to `n` predictions; the first that reaches `threshold` ends it.

    With `advised`, what fell short is discussed before the next attempt, as dspy.Refine does.
    """

    def __init__(self, program: dspy.Module, n: int, reward: Reward, threshold: float | None, said: str | None) -> None:
        """`said` is what the program is, for the discussion; None: none (best_of_n)."""
        super().__init__()
        self.program = program
        self.n = n
        self.threshold = threshold
        self._reward = reward
        self._said = said

    async def aforward(self, **inputs: Any) -> Any:
        """Run it. Raises the last attempt's error if all of them failed."""
        best: Any = None
        best_score = -float("inf")
        failure: Exception | None = None
        advice: Mapping[str, str] = {}
        for attempt in range(self.n):
            trace: list[Any] | None = [] if self._said is not None else None
            try:
                with _attempt(attempt, self.program, advice, trace):
                    prediction = await self.program.acall(**inputs)
                score = await self._reward.of(inputs, prediction)
            except Exception as error:
                log.debug("event=attempt_failed attempt=%d type=%s", attempt + 1, type(error).__name__)
                failure = error
                continue
            if best is None or score > best_score:
                best, best_score = prediction, score
            if self.threshold is not None and score >= self.threshold:
                break
            if trace is not None and attempt + 1 < self.n:
                advice = await self._advice(inputs, prediction, score, trace)
        if best is None and failure is not None:
            raise failure
        return best

    async def _advice(
        self, inputs: Mapping[str, Any], prediction: Any, score: float, trace: list[Any]
    ) -> Mapping[str, str]:
        names = {id(predictor): name for name, predictor in self.program.named_predictors()}
        steps = [
            {"module_name": names.get(id(one), ""), "inputs": given, "outputs": dict(made.items())}
            for one, given, made in trace
        ]
        try:
            found = await dspy.Predict(OfferFeedback).acall(
                program_code=self._said,
                modules_defn=inspect_modules(self.program),
                program_inputs=_text(inputs),
                program_trajectory=_text(steps),
                program_outputs=_text(dict(prediction.items())),
                reward_code=self._reward.text,
                target_threshold=self.threshold if self.threshold is not None else float("inf"),
                reward_value=score,
                module_names=list(names.values()),
            )
        except Exception as error:
            log.debug("event=advice_failed type=%s", type(error).__name__)
            return {}
        return found.advice if isinstance(found.advice, dict) else {}


class _attempt:
    """One attempt: at temperature 1, with hints to each predictor, noting in `trace` what the predictors did."""

    def __init__(self, number: int, program: dspy.Module, advice: Mapping[str, str], trace: list[Any] | None) -> None:
        values: dict[str, Any] = {"trace": trace}
        lm = settings.lm
        if lm is not None:
            values["lm"] = lm.copy(rollout_id=number, temperature=1.0)
        if advice:
            hints = {id(one.signature): advice.get(name, "N/A") for name, one in program.named_predictors()}
            values["adapter"] = _hinting(settings.adapter or dspy.ChatAdapter(), hints)
        self._context = dspy.context(**values)

    def __enter__(self) -> None:
        self._context.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self._context.__exit__(*raised)


def _hinting(adapter: dspy.Adapter, hints: Mapping[int, str]) -> dspy.Adapter:
    """The same adapter, which shows each predictor's signature its hint."""
    kind: Any = _HINTING.get(type(adapter))
    if kind is None:
        kind = _HINTING[type(adapter)] = types.new_class(f"Hinting{type(adapter).__name__}", (_Hinting, type(adapter)))
    made = kind.__new__(kind)
    made.__dict__.update(vars(adapter))
    made.dspymq_hints = hints
    return made


class _Hinting:
    dspymq_hints: Mapping[int, str]

    async def acall(
        self, lm: Any, lm_kwargs: dict[str, Any], signature: Any, demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> Any:
        hint = self.dspymq_hints.get(id(signature))
        if hint is not None and HINT not in signature.fields:
            signature = signature.append(HINT, dspy.InputField(desc="A hint to the module from an earlier run"))
            inputs = {**inputs, HINT: hint}
        return await super().acall(lm, lm_kwargs, signature, demos, inputs)  # type: ignore[misc]


_HINTING: Final[dict[type, Any]] = {}


class MultiChain(dspy.Module):  # type: ignore[misc]
    """dspy.MultiChainComparison over `n` chains of thought that it lets be drafted itself."""

    def __init__(self, signature: Any, n: int) -> None:
        super().__init__()
        self.draft = dspy.ChainOfThought(signature)
        self.compare = dspy.MultiChainComparison(signature, M=n)

    async def aforward(self, **inputs: Any) -> Any:
        """Draft, and compare."""
        drafts = await _all([self._draft(number, inputs) for number in range(self.compare.M)], self.compare.M)
        # DSPy's own way of showing the drafts, with a predictor that only tells what it was given.
        told = SimpleNamespace(M=self.compare.M, last_key=self.compare.last_key, predict=dict)
        shown = dspy.MultiChainComparison.forward(told, [dict(one.items()) for one in drafts], **inputs)
        return await self.compare.predict.acall(**shown)

    async def _draft(self, number: int, inputs: Mapping[str, Any]) -> Any:
        with dspy.context(lm=settings.lm and settings.lm.copy(rollout_id=number, temperature=DRAFT_TEMPERATURE)):
            return await self.draft.acall(**inputs)


class Parallel(dspy.Module):  # type: ignore[misc]
    """One program over each item of the list that the input `over` holds; its outputs are lists, in that order."""

    def __init__(self, program: dspy.Module, over: str, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.program = program
        self.over = over
        self.outputs = outputs

    async def aforward(self, **inputs: Any) -> Any:
        """Run it. The first error ends all."""
        items = list(inputs.pop(self.over))
        if len(items) > MAX_ITEMS:
            raise JobError("invalid_inputs", f"`{self.over}` has {len(items)} items, the limit is {MAX_ITEMS}")
        calls = [self.program.acall(**inputs, **{self.over: item}) for item in items]
        found = await _all(calls, ITEMS_AT_ONCE)
        return dspy.Prediction(**{name: [one.get(name) for one in found] for name in self.outputs})


class Pipeline(dspy.Module):  # type: ignore[misc]
    """Steps one after the other, each fed from the inputs and from the outputs of steps before it."""

    def __init__(self, steps: Mapping[str, dspy.Module], plan: Plan) -> None:
        super().__init__()
        self.steps = dict(steps)
        self._plan = plan

    async def aforward(self, **inputs: Any) -> Any:
        """Run it. Raises JobError `program_error` if what a step gives does not fit the next."""
        values: dict[str, Any] = dict(inputs)
        for name, module in self.steps.items():
            made = await module.acall(**self._plan.arguments(name, values))
            values |= {f"{name}.{field}": value for field, value in made.items()}
        return dspy.Prediction(**{name: values.get(source) for name, source in self._plan.outputs.items()})


class InThread(dspy.Module):  # type: ignore[misc]
    """A program that blocks its event loop, on a loop of its own in the thread that calls it."""

    def __init__(self, program: dspy.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, **inputs: Any) -> Any:
        """Run it."""
        return asyncio.run(self.program.acall(**inputs))


async def _all(calls: list[Any], at_once: int) -> list[Any]:
    """What these coroutines return, in their order, so many at a time. The first error cancels the rest."""
    room = asyncio.Semaphore(at_once)

    async def one(call: Any) -> Any:
        async with room:
            return await call

    tasks = [asyncio.ensure_future(one(call)) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for call in calls:
            call.close()


def _text(value: Any) -> str:
    plain = to_jsonable_python(value, fallback=str, bytes_mode="base64")
    return json.dumps(plain, ensure_ascii=False, indent=2)
