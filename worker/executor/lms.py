"""From profiles to DSPy's LM objects: one for each profile and executor, shared by all of its jobs.

One object, since an LM for each job would leak a connection and itself; its state does not change with a job.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import dspy
from dspy.clients._litellm import get_litellm
from dspy.clients.capabilities import Capabilities, capabilities
from dspy.clients.engines import AsyncLiteLLMEngine, AsyncLM15Engine, LM15Engine
from dspy.lm15 import RouterConfig, Timeouts, TransportError, UnknownModelError, UnsupportedFeatureError

from dspymq.worker.executor.engine import InnerEngine, JobEngine, SyncBridge
from dspymq.worker.executor.failures import JobError
from dspymq.worker.executor.gates import Gates
from dspymq.worker.executor.usage import ProfileModel
from dspymq.worker.profiles import DEFAULT, LMProfile, ProfileError

log = logging.getLogger("dspymq.worker.lms")

LOCAL_MODEL: Final = "openai/local"
LOCAL_CAPABILITIES: Final = Capabilities(
    response_schema=True, params=frozenset({"response_format", "temperature", "max_tokens", "top_p", "stop", "seed"})
)
CONFIG_KEYS: Final = ("temperature", "max_tokens", "top_p", "stop", "seed")
"""What a job's `config` may set for its own LM calls."""


@dataclass(frozen=True)
class ProfileLM:
    """An LM and the adapter that goes with it (None: the program's own)."""

    lm: Any
    adapter: Any


class LMSet:
    """The LMs of one executor. Made on its loop; each LM at its first use."""

    def __init__(
        self,
        profiles: Mapping[str, LMProfile],
        loop: asyncio.AbstractEventLoop,
        local_url: Callable[[bool], Awaitable[str]] | None = None,
        gates: Gates | None = None,
    ) -> None:
        """`local_url(again)` gives the embedded model's address; `again` after a connection to the last one failed.

        Without `gates` calls go out as they come.
        """
        self._profiles = profiles
        self._loop = loop
        self._local_url = local_url
        self._gates = gates
        self._made: dict[str, ProfileLM] = {}

    @property
    def secrets(self) -> list[str]:
        """The keys, to keep them out of messages."""
        return [p.api_key for p in self._profiles.values() if p.api_key and len(p.api_key) >= 4]

    def get(self, name: str | None) -> ProfileLM | None:
        """The LM of a profile; without a name that of `default`, or None if there is no such profile.

        Raises JobError `unknown_profile`, or `lm_not_configured` if the profile cannot be used.
        """
        if name is None and DEFAULT not in self._profiles:
            return None
        wanted = name or DEFAULT
        if wanted not in self._profiles:
            known = ", ".join(self._profiles) or "none"
            raise JobError("unknown_profile", f"no LM profile {wanted!r} here; known: {known}")
        made = self._made.get(wanted)
        if made is None:
            try:
                made = self._made[wanted] = self._make(self._profiles[wanted])
            except ProfileError as error:
                raise JobError("lm_not_configured", str(error)) from None
        return made

    def adopt(self, name: str, made: ProfileLM) -> None:
        """Use this LM for a profile (tests, and embedders with engines of their own)."""
        self._made[name] = made

    def _make(self, profile: LMProfile) -> ProfileLM:
        if profile.kind == "local":
            if self._local_url is None:
                raise ProfileError(f"profiles.{profile.name}", "the embedded model is not available here", "see docs")
            inner: InnerEngine = _LocalEngine(self._local_url, profile)
            return self._wrap(profile, inner, LOCAL_MODEL, None, LOCAL_CAPABILITIES)
        inner, provider, can = _remote_engine(profile)
        return self._wrap(profile, inner, profile.model, provider, can)

    def _wrap(
        self, profile: LMProfile, inner: InnerEngine, model: str, provider: str | None, can: Capabilities
    ) -> ProfileLM:
        adapter = make_adapter(profile)
        engine = JobEngine(
            inner,
            model=model,
            loop=self._loop,
            retries=profile.num_retries,
            gate=self._gates.get(profile.name) if self._gates is not None else None,
            provider=provider,
            json_answers=profile.adapter in ("json", "local"),
        )
        lm = make_lm(profile, model, SyncBridge(engine, self._loop, can), engine)
        return ProfileLM(lm, adapter)


def make_lm(profile: LMProfile, model: str, engine: Any, async_engine: Any) -> Any:
    """The dspy.LM of a profile over our engines. Raises ProfileError for parameters that the model refuses."""
    try:
        return dspy.LM(
            ProfileModel(model),
            temperature=profile.temperature,
            max_tokens=profile.max_tokens,
            cache=False,
            num_retries=0,
            engine=engine,
            async_engine=async_engine,
            **profile.params,
        )
    except Exception as error:
        raise ProfileError(f"profiles.{profile.name}", str(error)[:300], "correct the profile") from error


def make_adapter(profile: LMProfile) -> Any:
    """The DSPy adapter of a profile, or None to leave it to the program."""
    if profile.adapter == "chat":
        return dspy.ChatAdapter()
    if profile.adapter == "json":
        return dspy.JSONAdapter()
    if profile.adapter == "local":
        from dspymq.worker.executor.local_adapter import LocalAdapter

        return LocalAdapter()
    return None


def check_profile(profile: LMProfile) -> None:
    """Find what is wrong with a profile without any connection; also warms what DSPy knows of its model.

    Raises ProfileError.
    """
    if profile.kind == "local":
        return
    _, provider, can = _remote_engine(profile)
    idle = SyncBridge(JobEngine(_NoEngine(), model=profile.model, loop=_NO_LOOP), _NO_LOOP, can)
    make_lm(profile, profile.model, idle, None)
    if provider is None:
        log.info("event=profile_uses_litellm profile=%s model=%s", profile.name, profile.model)


def with_config(made: ProfileLM, config: Any) -> ProfileLM:
    """The LM under a job's own `config`. Raises JobError `invalid_body`."""
    if not config:
        return made
    if not isinstance(config, Mapping):
        raise JobError("invalid_body", "`config` must be a map")
    for key, value in config.items():
        if key not in CONFIG_KEYS:
            raise JobError("invalid_body", f"`config` has no key {str(key)[:64]!r}; known: {', '.join(CONFIG_KEYS)}")
        if not _fits(key, value):
            raise JobError("invalid_body", f"`config.{key}` cannot be {value!r}"[:300])
    settings = dict(config)
    for key in ("max_tokens", "seed"):
        if isinstance(settings.get(key), float):
            settings[key] = int(settings[key])
    return ProfileLM(made.lm.copy(**settings), made.adapter)


def _fits(key: str, value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if key == "stop":
        return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))
    if key in ("max_tokens", "seed"):
        return isinstance(value, int | float) and value == int(value) and (key == "seed" or value >= 1)
    return isinstance(value, int | float) and 0 <= value <= 10


def _remote_engine(profile: LMProfile) -> tuple[InnerEngine, str | None, Capabilities]:
    """(engine, pricing provider, what the model can do); the native engine wherever DSPy has one."""
    timeout_s = profile.read_timeout_s
    timeouts = Timeouts(read=timeout_s, write=timeout_s, pool=timeout_s)
    try:
        provider = LM15Engine(RouterConfig(env={})).resolve(profile.model).provider
    except (UnknownModelError, UnsupportedFeatureError):
        return _litellm_engine(profile)
    except Exception as error:
        raise ProfileError(f"profiles.{profile.name}.model", str(error)[:300], "use provider/name") from error
    # A server of one's own often wants no key, and DSPy refuses to call without one.
    key = profile.api_key or ("none" if profile.api_base else None)
    config = RouterConfig(
        api_keys={provider: key} if key else None,
        base_urls={provider: profile.api_base} if profile.api_base else None,
        timeouts=timeouts,
        max_connections=profile.max_connections,
    )
    plain = dspy.LM(profile.model, cache=False, engine="lm15", api_key=key or "none")
    return AsyncLM15Engine(config), provider, capabilities(plain)


def _litellm_engine(profile: LMProfile) -> tuple[InnerEngine, str | None, Capabilities]:
    options: dict[str, Any] = {"timeout": profile.read_timeout_s}
    if profile.api_key:
        options["api_key"] = profile.api_key
    if profile.api_base:
        options["api_base"] = profile.api_base
    try:
        litellm = get_litellm(feature=f"profile {profile.name}")
        litellm.suppress_debug_info = True
        litellm.get_llm_provider(model=profile.model, api_base=profile.api_base)
        can = capabilities(dspy.LM(profile.model, cache=False, engine="litellm"))
    except Exception as error:
        fix = "use a provider that DSPy or litellm knows"
        raise ProfileError(f"profiles.{profile.name}.model", str(error)[:300], fix) from error
    return AsyncLiteLLMEngine(**options), None, can


class _LocalEngine:
    """The embedded model: its address is asked for at the first use and again when a connection fails."""

    def __init__(self, local_url: Callable[[bool], Awaitable[str]], profile: LMProfile) -> None:
        self._local_url = local_url
        self._profile = profile
        self._url: str | None = None
        self._engine: Any = None

    async def complete(self, request: Any) -> Any:
        engine = await self._current()
        try:
            return await engine.complete(request)
        except TransportError:
            return await (await self._renewed(engine)).complete(request)

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        engine = await self._current()
        has_begun = False
        try:
            async for event in engine.stream(request):
                has_begun = True
                yield event
            return
        except TransportError:
            if has_begun:
                raise
        async for event in (await self._renewed(engine)).stream(request):
            yield event

    async def _current(self) -> Any:
        if self._engine is None:
            url = await self._local_url(False)
            if self._engine is None:
                self._connect(url)
        return self._engine

    async def _renewed(self, failed: Any) -> Any:
        if self._engine is failed:
            url = await self._local_url(True)
            if self._engine is failed:
                self._connect(url)
        return self._engine

    def _connect(self, url: str) -> None:
        timeout_s = self._profile.read_timeout_s
        config = RouterConfig(
            api_keys={"openai-chat": "none"},
            base_urls={"openai-chat": url},
            timeouts=Timeouts(read=timeout_s, write=timeout_s, pool=timeout_s),
            max_connections=self._profile.max_connections,
        )
        self._url, self._engine = url, AsyncLM15Engine(config)


class _NoEngine:
    async def complete(self, request: Any) -> Any:
        raise RuntimeError("this engine only checks a profile")

    def stream(self, request: Any) -> AsyncIterator[Any]:
        raise RuntimeError("this engine only checks a profile")


_NO_LOOP: Any = None
