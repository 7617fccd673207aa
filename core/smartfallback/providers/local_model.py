"""A GGUF model as the child process runs it. Importing this module loads llama.cpp."""

from __future__ import annotations

import ctypes
import random
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import llama_cpp

from smartfallback.providers.local_protocol import Fault, Finished, Generate, Settings

_MAGIC: Final = b"GGUF"
_STEP_TOKENS: Final = 64
"""Tokens of a prompt evaluated at once: a cancelled request is noticed between two such steps."""

_DEFAULT_TEMPERATURE: Final = 0.8
"""llama.cpp's own; the Python package's 0.2 repeats itself with small models."""

_ERROR_LEVEL: Final = 4
"""GGML_LOG_LEVEL_ERROR in ggml.h."""

_log: deque[str] = deque(maxlen=4)
"""The last errors in llama.cpp's log, the only place where it says why something failed."""


def _keep_errors(level: int, text: bytes, _: object) -> None:
    if level == _ERROR_LEVEL and (line := text.decode(errors="replace").strip()):
        _log.append(line)


# The native side holds no reference to its callback, so it has to live as long as the module.
_on_log = llama_cpp.llama_log_callback(_keep_errors)
llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))


class Refused(Exception):
    """The model can't be loaded or can't answer, for the reason in ``fault``."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


class Interrupted(Exception):
    """The answer was cancelled."""


class _Llama(llama_cpp.Llama):
    """llama.cpp with an ear for cancellation, counting the tokens of the running answer."""

    is_cancelled: Callable[[], bool] = staticmethod(lambda: False)
    prompt_count = 0
    answer_count = 0

    def eval(self, tokens: Sequence[int]) -> None:
        for start in range(0, len(tokens), _STEP_TOKENS):
            if self.is_cancelled():
                raise Interrupted
            super().eval(tokens[start : start + _STEP_TOKENS])

    def generate(self, tokens: Sequence[int], *args: Any, **options: Any) -> Generator[int, Any, None]:
        self.prompt_count = len(tokens)
        vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        for token in super().generate(tokens, *args, **options):
            if self.is_cancelled():
                raise Interrupted
            self.answer_count += not llama_cpp.llama_vocab_is_eog(vocabulary, token)
            yield token


class LocalModel:
    """A loaded model.

    Raises:
        Refused: The file can't be loaded; the message names it and says why.
    """

    def __init__(self, settings: Settings) -> None:
        self._path = Path(settings.model_path)
        self._check_file()
        _log.clear()
        llama = self._load(settings, settings.context_tokens)
        own_context = llama_cpp.llama_model_n_ctx_train(llama.model)
        if 0 < own_context < settings.context_tokens:
            llama.close()
            llama = self._load(settings, own_context)
        self._llama = llama

    @property
    def context_tokens(self) -> int:
        """How many tokens question and answer may have together."""
        return self._llama.n_ctx()

    def answer(self, order: Generate, is_cancelled: Callable[[], bool]) -> Iterator[str | Finished]:
        """Yield the answer's text piece by piece, then how it ended.

        Raises:
            Interrupted: ``is_cancelled`` said so, between two tokens or two steps of the prompt.
            Refused: The conversation can't be answered.
        """
        self._llama.is_cancelled = is_cancelled
        self._llama.prompt_count = self._llama.answer_count = 0
        _log.clear()
        temperature = _DEFAULT_TEMPERATURE if order.temperature is None else order.temperature
        reason = ""
        try:
            for chunk in self._llama.create_chat_completion(
                cast(Any, [{"role": role, "content": text} for role, text in order.messages]),
                stream=True,
                max_tokens=order.max_tokens,
                temperature=temperature,
                # Without it each process would draw the same series of answers.
                seed=random.getrandbits(31),
            ):
                choice = cast(Any, chunk)["choices"][0]
                reason = choice["finish_reason"] or reason
                if text := choice["delta"].get("content"):
                    yield text
        except Interrupted:
            raise
        except ValueError as error:
            # The package has one type for both; only its wording tells an overflow from a template's refusal.
            if "exceed context window" in str(error):
                raise Refused(Fault.CONTEXT, str(error)) from error
            raise Refused(Fault.REQUEST, f"the model's chat template refuses it: {error}") from error
        except Exception as error:
            # What is cached of the conversation may not be what the native side holds.
            cast(Any, self._llama).reset()
            detail = "; ".join([str(error) or type(error).__name__, *_log])
            fault = Fault.REQUEST if type(error).__module__.startswith("jinja2") else Fault.INFERENCE
            raise Refused(fault, detail) from error
        yield Finished(order.id, reason, self._llama.prompt_count, self._llama.answer_count)

    def _check_file(self) -> None:
        try:
            with self._path.open("rb") as file:
                head = file.read(len(_MAGIC))
        except OSError as error:
            raise Refused(Fault.MODEL, f"{self._path}: {error.strerror}") from error
        if head != _MAGIC:
            raise Refused(Fault.MODEL, f"{self._path} is not a GGUF file (it begins with {head!r})")

    def _load(self, settings: Settings, context_tokens: int) -> _Llama:
        try:
            return _Llama(
                settings.model_path,
                n_ctx=context_tokens,
                n_batch=_STEP_TOKENS,
                n_threads=settings.threads,
                n_threads_batch=settings.threads,
                verbose=False,
            )
        except Exception as error:
            reasons = "; ".join(dict.fromkeys(_log)) or str(error)
            raise Refused(Fault.MODEL, f"llama.cpp can't load {self._path}: {reasons}") from error
