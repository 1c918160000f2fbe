"""The rows of docs/programs.md: for each name of DSPy what a client has of it, and the test that runs it, or why not.

Add a row when DSPy adds a name; `python -m tests.programs.make_table` then writes the page.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dspymq.worker.executor.signature_text import _GENERIC, _SIMPLE

CODE: Final = "in a pool's code"
LATER: Final = "lane `batch`, not built yet"


class Row(NamedTuple):
    """`how` a client comes by it, and the `test`, FILE::FUNCTION under tests/; without a test `how` is why not."""

    how: str
    test: str = ""


def _spec(test: str, said: str) -> Row:
    return Row(f"in a spec: {said}", f"programs/{test}")


def _code(test: str, said: str = "") -> Row:
    return Row(f"{CODE}{said}", test if test.startswith("unit/") else f"programs/{test}")


def _no(why: str) -> Row:
    return Row(f"no: {why}")


_BATCH: Final = _no(LATER)
_PROCESS: Final = _no("set for a whole process; programs use `dspy.context`")
_EXPERIMENTAL: Final = _no("experimental in DSPy, and not in the grammar")
_CHUNKS: Final = _no("chunks, progress and resets take its place (SPEC.md section 9)")
_ERROR: Final = Row("as a reason of SPEC.md section 12", "programs/test_errors.py::test_errors_of_dspy_have_reasons")
_SAME_TOOL: Final = _code("test_tools.py::test_dspy_tool_in_a_pools_code")
_CALLS: Final = _code("test_tools.py::test_tool_calls_and_their_results")
_V2: Final = _spec("test_kinds.py::test_react_v2", "inside kind `react_v2`")
_RLM: Final = "test_kinds.py::test_rlm_runs_code_only_by_the_operators_word"
_DROPPED: Final = _no("runs code that a model writes, and is deprecated: DSPy 3.5 drops it; use `rlm`")
_METRIC: Final = _code("test_code.py::test_metrics_as_rewards", ", as a reward that a spec names")

MODULES: Final = {
    "Predict": _spec("test_kinds.py::test_predict", "kind `predict`"),
    "ChainOfThought": _spec("test_kinds.py::test_chain_of_thought", "kind `chain_of_thought`"),
    "MultiChainComparison": _spec(
        "test_kinds.py::test_multi_chain_comparison", "kind `multi_chain_comparison`, which drafts the chains, too"
    ),
    "ReAct": _spec("test_kinds.py::test_react", "kind `react`"),
    "ReActV2": _spec("test_kinds.py::test_react_v2", "kind `react_v2`; experimental in DSPy"),
    "RLM": _spec(_RLM, "kind `rlm`, where the operator allows code that a model writes"),
    "BestOfN": _spec("test_kinds.py::test_best_of_n", "kind `best_of_n`, ours: DSPy's is synchronous and prints"),
    "Refine": _spec("test_kinds.py::test_refine", "kind `refine`, ours: DSPy's is synchronous and prints"),
    "Parallel": _spec("test_kinds.py::test_parallel", "kind `parallel`: one program over a list"),
    "majority": _code("test_code.py::test_completions_and_majority"),
    "ProgramOfThought": _DROPPED,
    "CodeAct": _DROPPED,
    "Flex": _no("runs code that a model writes, in Deno, and is experimental; use `rlm`"),
    "KNN": _no("needs numpy and an embedder, which are the pool's to bring"),
    "predict.avatar.avatar.Avatar": _no("not exported by DSPy; use `react`"),
}
ADAPTERS: Final = {
    "Adapter": _code("test_adapters.py::test_an_adapter_of_a_pools_own", ", to derive from"),
    "ChatAdapter": _spec("test_adapters.py::test_chat_and_json", "adapter `chat`"),
    "JSONAdapter": _spec("test_adapters.py::test_chat_and_json", "adapter `json`"),
    "XMLAdapter": _spec("test_adapters.py::test_xml", "adapter `xml`"),
    "TwoStepAdapter": _spec("test_adapters.py::test_two_step", "adapter `two_step`; the same LM reads its answers"),
    "adapters.baml_adapter.BAMLAdapter": _code("test_adapters.py::test_baml_in_a_pools_code"),
}
_MEDIA: Final = "test_types.py::test_image_audio_and_file_reach_the_lm_as_such"
TYPES: Final = {
    "Image": _spec(_MEDIA, "`Image`, {url}: http(s) or data; never a path"),
    "Audio": _spec(_MEDIA, "`Audio`, {data, audio_format}"),
    "File": _spec(_MEDIA, "`File`, {file_data}, {file_id}; `filename` where the provider takes it"),
    "History": _spec("test_types.py::test_history", "`History`, {messages: [{field: value}]}; inputs only"),
    "Code": _spec("test_types.py::test_code", "`Code`, `Code['elixir']`, {code}"),
    "Reasoning": _spec("test_types.py::test_reasoning", "`Reasoning`, {content}"),
    "Type": _code("test_types.py::test_a_type_of_a_pools_own", ", to derive from"),
    "experimental.Choice": _EXPERIMENTAL,
    "experimental.Citations": _EXPERIMENTAL,
    "experimental.Document": _EXPERIMENTAL,
    "experimental.Noul": _EXPERIMENTAL,
    "experimental.Score": _EXPERIMENTAL,
}
PYTHON_TYPES: Final = {
    **{name: _spec("test_types.py::test_types_as_text", f"`{name}`") for name in _SIMPLE},
    **{f"{name}[...]": _spec("test_types.py::test_types_as_text", f"`{name}[...]`") for name in _GENERIC},
    "JSON Schema": _spec("test_types.py::test_types_as_json_schema", "a map; SPEC.md section 11.7 has the keywords"),
}
SIGNATURES: Final = {
    "Signature": _spec("test_fields.py::test_descriptions_defaults_and_instructions_reach_the_lm", "`signature`"),
    "InputField": _spec("test_fields.py::test_inputs_are_checked_before_any_call", "`inputs`"),
    "OutputField": _spec("test_fields.py::test_outputs_that_break_a_bound_are_an_error_with_usage", "`outputs`"),
    "SignatureMeta": _code("test_code.py::test_signatures_in_code"),
    "ensure_signature": _code("test_code.py::test_signatures_in_code"),
    "make_signature": _code("test_code.py::test_signatures_in_code"),
    "infer_prefix": _no("of no effect in DSPy any more"),
    "OldField": _no("deprecated"),
    "OldInputField": _no("deprecated"),
    "OldOutputField": _no("deprecated"),
}
TOOLS: Final = {
    "Tool": _spec("test_kinds.py::test_agents_call_tools_of_the_client_and_of_the_pool", "`tools` of agents"),
    "Tool.acall": _code("test_tools.py::test_a_synchronous_tool_does_not_hold_the_loop", ", and of pool tools"),
    "Tool.format_as_litellm_function_call": _code(
        "unit/worker/test_tools.py::test_native_function_calls_know_what_is_required"
    ),
    **{f"Tool.{name}": _SAME_TOOL for name in ("arg_desc", "arg_types", "args", "desc", "format", "func", "name")},
    "Tool.has_kwargs": _code("test_tools.py::test_what_goes_wrong_is_a_short_error"),
    "Tool.from_langchain": _no("needs langchain, which is the pool's to bring"),
    "Tool.from_mcp_tool": _no("needs mcp and its servers, which are the pool's to bring"),
    "ToolCalls": _V2,
    "ToolCalls.ToolCall": _V2,
    "ToolCalls.ToolCall.args": _V2,
    "ToolCalls.ToolCall.id": _V2,
    "ToolCalls.ToolCall.name": _V2,
    "ToolCalls.ToolCall.format": _V2,
    "ToolCalls.ToolCall.execute": _CALLS,
    "ToolCalls.description": _V2,
    "ToolCalls.format": _V2,
    "ToolCalls.from_dict_list": _no("for answers with native calls, which DSPy reads itself"),
    "ToolCalls.serialize_model": _V2,
    "ToolCalls.tool_call_results": _V2,
    "ToolCalls.tool_calls": _CALLS,
    "ToolCalls.validate_input": _CALLS,
    "ToolCallResults": _CALLS,
    "ToolCallResults.ToolCallResult": _CALLS,
    "ToolCallResults.from_tool_calls_and_values": _CALLS,
    "ToolCallResults.tool_call_results": _CALLS,
    "ToolCallResults.validate_input": _V2,
}
OPTIMIZERS: Final = {
    **dict.fromkeys(
        (
            "AvatarOptimizer",
            "BetterTogether",
            "BootstrapFewShot",
            "BootstrapFewShotWithOptuna",
            "BootstrapFewShotWithRandomSearch",
            "BootstrapFinetune",
            "BootstrapRS",
            "COPRO",
            "Ensemble",
            "GEPA",
            "InferRules",
            "KNNFewShot",
            "LabeledFewShot",
            "MIPROv2",
            "SIMBA",
            "bootstrap_trace_data",
            "experimental.ReAnchor",
        ),
        _BATCH,
    ),
    "teleprompt.bootstrap_finetune.FinetuneTeleprompter": _no("the base of others"),
    "teleprompt.teleprompt.Teleprompter": _no("the base of others"),
    "teleprompt.gepa.instruction_proposal.SingleComponentMultiModalProposer": _no("a part of GEPA"),
    "teleprompt.infer_rules.RulesInductionProgram": _no("a part of InferRules"),
    "teleprompt.grpo.GRPO": _no("not exported by DSPy; trains weights, which needs a provider that does"),
    "teleprompt.signature_opt.SignatureOptimizer": _no("deprecated; COPRO under an older name"),
}
EVALUATION: Final = {
    "Evaluate": _BATCH,
    "evaluate.EvaluationResult": _BATCH,
    "evaluate.SemanticF1": _BATCH,
    "evaluate.CompleteAndGrounded": _BATCH,
    "evaluate.EM": _METRIC,
    "evaluate.answer_exact_match": _METRIC,
    "evaluate.answer_passage_match": _METRIC,
    "evaluate.normalize_text": _METRIC,
}
RETRIEVAL: Final = {
    "Retrieve": _code("test_code.py::test_retrieve", ", with an `rm` of its own"),
    "ColBERTv2": _no("a client of one service in the network"),
    "Embedder": _no("needs numpy and a model of embeddings, which are the pool's to bring"),
    "Embeddings": _no("needs numpy and a model of embeddings, which are the pool's to bring"),
    "EmbeddingsWithScores": _no("needs numpy and a model of embeddings, which are the pool's to bring"),
}
_KEPT: Final = _no("executors cache no answers")
MODELS: Final = {
    "LM": Row("as a profile that the operator names", "unit/worker/test_lms.py::test_an_answer_with_usage_and_cost"),
    "BaseLM": _code("unit/worker/test_jobs.py::test_an_lm_of_the_programs_own_is_counted_too"),
    "inspect_history": _code(
        "test_code.py::test_nothing_is_kept_for_inspect_history", ": prints nothing, none is kept"
    ),
    "configure_cache": _KEPT,
    "enable_litellm_logging": _PROCESS,
    "disable_litellm_logging": _PROCESS,
    "Provider": _no("trains weights, or starts servers of models"),
    "TrainingJob": _no("trains weights"),
    "experimental.TypeSafe": _EXPERIMENTAL,
}
STREAMING: Final = {
    "streamify": _CHUNKS,
    **{
        f"streaming.{name}": _CHUNKS
        for name in (
            "StatusMessage",
            "StatusMessageProvider",
            "StreamListener",
            "StreamResponse",
            "apply_sync_streaming",
            "streaming_response",
        )
    },
}
VALUES: Final = {
    "Module": _code("test_code.py::test_module_example_and_prediction", ": every program is one"),
    "BaseModule": _code("test_code.py::test_module_example_and_prediction"),
    "Example": _code("test_code.py::test_module_example_and_prediction"),
    "Prediction": _code("test_code.py::test_module_example_and_prediction"),
    "Completions": _code("test_code.py::test_completions_and_majority"),
    "LocalInterpreter": _code(_RLM, ", to run the code of `rlm`; no sandbox"),
    "CodeInterpreter": _code(_RLM, ", to run the code of `rlm`"),
    "FinalOutput": _code(_RLM, ", what an interpreter returns"),
    "resolve_interpreter_factory": _code(_RLM),
    "PythonInterpreter": _no("needs Deno 2, and the network at its first start; `allow_code` takes it by default"),
    "CodeExecutionError": _no("DSPy shows it to the model that wrote the code"),
    "CodeInterpreterError": _no("the interpreter's fault: a program that ends with it is `program_error`"),
    "SandboxSerializable": _no("for values of a pool's own inside of interpreters"),
}
ERRORS: Final = dict.fromkeys(
    (
        "AdapterParseError",
        "ContextWindowExceededError",
        "DSPyError",
        "LMAuthError",
        "LMBillingError",
        "LMCollectionLimitError",
        "LMConfigurationError",
        "LMError",
        "LMInvalidRequestError",
        "LMLockTimeoutError",
        "LMNotConfiguredError",
        "LMProviderError",
        "LMRateLimitError",
        "LMServerError",
        "LMStreamAssemblyError",
        "LMTimeoutError",
        "LMTransportError",
        "LMUnexpectedError",
        "LMUnsupportedFeatureError",
        "LMUnsupportedModelError",
        "is_retryable_lm_error",
    ),
    _ERROR,
)
HELPERS: Final = {
    "context": _code("test_code.py::test_context_and_settings"),
    "settings": _code("test_code.py::test_context_and_settings"),
    "track_usage": _code("test_code.py::test_track_usage", "; results carry usage anyway"),
    "asyncify": _code("test_code.py::test_asyncify"),
    "syncify": _code("test_code.py::test_syncify"),
    "configure": _PROCESS,
    "load": _no("unpickles; a spec's `state` takes what `save` wrote as JSON"),
    "load_settings": _PROCESS,
    "configure_dspy_loggers": _PROCESS,
    "disable_logging": _PROCESS,
    "enable_logging": _PROCESS,
}

ROWS: Final[dict[str, dict[str, Row]]] = {
    "Modules": MODULES,
    "Adapters": ADAPTERS,
    "Types of fields": TYPES,
    "Types of Python in a signature": PYTHON_TYPES,
    "Signatures": SIGNATURES,
    "Tools": TOOLS,
    "Optimizers": OPTIMIZERS,
    "Evaluation": EVALUATION,
    "Retrieval": RETRIEVAL,
    "Language models": MODELS,
    "Streaming": STREAMING,
    "Values and interpreters": VALUES,
    "Errors": ERRORS,
    "Settings and helpers": HELPERS,
}
