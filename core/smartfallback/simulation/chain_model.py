"""Writes a language model whose weights are set by hand: a chain of text pieces.

The file is an ordinary GGUF of the ``llama`` architecture that llama.cpp loads, samples and streams
like any other, in well under a megabyte. Its single layer has zero attention and feed-forward
weights, so the residual stream is the embedding of the last token. Pieces of the chain have
orthogonal embeddings, and the output matrix holds the logarithm of each transition's weight: the
logits after a piece favour exactly its successors, in proportion to their weights at temperature 1.
All other tokens share one embedding, which stands for the start of the chain, so the answer begins
the same way after any prompt.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

Chain = Mapping[str, Sequence[tuple[str, float]]]
"""The successors of each piece with their weights; :data:`START` has those that open an answer."""

START: Final = "<|assistant|>"
"""The key of a chain under which its opening pieces stand."""

END: Final = "</s>"
"""The successor that ends an answer."""

CHAT_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

_UNKNOWN: Final = "<unk>"
_BEGIN: Final = "<s>"
_CONTROL: Final = (_BEGIN, END, "<|system|>", "<|user|>", START, "<|end|>")
_BYTES: Final = tuple(f"<0x{byte:02X}>" for byte in range(256))

# Frequent English letter groups; each is a join of two shorter ones or of a group and a letter, as
# the tokenizer merges in steps. They only make prompts shorter: the chain never answers with them.
_GROUPS: Final = (
    "th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me de "
    "hi ri ro ic ne ea ra ce li ch ll be ma si om ur ca el ta la ns di fo ho pe ec pr no ct us ac ot il tr "
    "ly ing the and ion ent her tion ment ould ess ate all our you ver com con pro "
    "_ __ _t _a _w _s _i _o _c _b _p _m _f _d _h _th _the _and _of _to _in _is _you _for _that _what _with "
    "_can _model"
)

_BASE_LOGIT: Final = 24.0
"""Logit of a certain successor; every token outside the chain has 0, so e^-24 of its chance."""

_WIDTH_STEP: Final = 32
_HEAD_SIZE: Final = 32
_FEED_FORWARD: Final = 32
_EMBEDDING_VALUE: Final = 8.0
_SPACE: Final = "\u2581"
"""How the tokenizer's vocabulary writes a space."""


def write_chain_model(
    path: Path, chain: Chain, *, name: str, context_tokens: int = 2048, chat_template: str = CHAT_TEMPLATE
) -> None:
    """Write a model that recites ``chain``; needs the packages of the extra ``local``.

    The file appears complete or not at all, and the same arguments give the same bytes.

    Args:
        path: Where to write; missing folders are made.
        chain: Successors by piece. A piece is text (spaces as they are) or a byte as ``<0xNN>``.
        name: The model's name, kept in the file.
        context_tokens: The longest conversation that the model states it can hold.
        chat_template: The Jinja template that turns a conversation into text.

    Raises:
        ModuleNotFoundError: ``gguf`` or ``numpy`` is not installed.
        OSError: The file can't be written.
        ValueError: A successor has no entry in ``chain``, or a weight is not above 0.
    """
    _check(chain)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        _write(Path(temporary), chain, name, context_tokens, chat_template)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _check(chain: Chain) -> None:
    if START not in chain:
        raise ValueError("the chain has no opening")
    for piece, successors in chain.items():
        if not successors:
            raise ValueError(f"{piece!r} leads nowhere; let it lead to END")
        for successor, weight in successors:
            if successor != END and (successor == START or successor not in chain):
                raise ValueError(f"{piece!r} leads to {successor!r}, which is no piece of the chain")
            if not weight > 0:
                raise ValueError(
                    f"the weight of {successor!r} after {piece!r} must be above 0, not {weight!r}"
                )


def _write(path: Path, chain: Chain, name: str, context_tokens: int, chat_template: str) -> None:
    import gguf
    import numpy as np

    pieces = [piece for piece in chain if piece != START]
    groups = [group.replace("_", _SPACE) for group in _GROUPS.split()]
    text_pieces = [piece.replace(" ", _SPACE) for piece in pieces if piece not in _BYTES]
    vocabulary = list(dict.fromkeys((_UNKNOWN, *_CONTROL, *_BYTES, *groups, *text_pieces)))
    index = {token: number for number, token in enumerate(vocabulary)}

    # Dimension 0 stands for the start of the chain, dimension n for its n-th piece.
    width = math.ceil((len(pieces) + 1) / _WIDTH_STEP) * _WIDTH_STEP
    states = {START: 0} | {piece: number for number, piece in enumerate(pieces, start=1)}
    embeddings = np.zeros((len(vocabulary), width), dtype=np.float16)
    output = np.zeros((len(vocabulary), width), dtype=np.float16)
    embeddings[:, 0] = _EMBEDDING_VALUE
    # RMS normalisation turns an embedding with one non-zero entry into sqrt(width) times a unit vector.
    scale = math.sqrt(width)
    for piece, successors in chain.items():
        state = states[piece]
        if piece != START:
            row = index[piece.replace(" ", _SPACE)]
            embeddings[row, 0] = 0
            embeddings[row, state] = _EMBEDDING_VALUE
        total = sum(weight for _, weight in successors)
        for successor, weight in successors:
            logit = _BASE_LOGIT + math.log(weight / total)
            output[index[successor.replace(" ", _SPACE)], state] = logit / scale

    writer = gguf.GGUFWriter(path, "llama")
    try:
        writer.add_name(name)
        writer.add_description("Written by SmartFallback; recites fixed sentences and knows nothing.")
        writer.add_context_length(context_tokens)
        writer.add_embedding_length(width)
        writer.add_block_count(1)
        writer.add_feed_forward_length(_FEED_FORWARD)
        writer.add_head_count(1)
        writer.add_head_count_kv(1)
        writer.add_key_length(_HEAD_SIZE)
        writer.add_value_length(_HEAD_SIZE)
        writer.add_rope_dimension_count(_HEAD_SIZE)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_vocab_size(len(vocabulary))
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        writer.add_chat_template(chat_template)
        _add_tokenizer(writer, vocabulary, index)
        narrow = np.zeros((_HEAD_SIZE, width), dtype=np.float16)
        wide = np.zeros((width, _HEAD_SIZE), dtype=np.float16)
        ones = np.ones(width, dtype=np.float32)
        for tensor, values in (
            ("token_embd.weight", embeddings),
            ("output_norm.weight", ones),
            ("output.weight", output),
            ("blk.0.attn_norm.weight", ones),
            ("blk.0.attn_q.weight", narrow),
            ("blk.0.attn_k.weight", narrow),
            ("blk.0.attn_v.weight", narrow),
            ("blk.0.attn_output.weight", wide),
            ("blk.0.ffn_norm.weight", ones),
            ("blk.0.ffn_gate.weight", np.zeros((_FEED_FORWARD, width), dtype=np.float16)),
            ("blk.0.ffn_up.weight", np.zeros((_FEED_FORWARD, width), dtype=np.float16)),
            ("blk.0.ffn_down.weight", np.zeros((width, _FEED_FORWARD), dtype=np.float16)),
        ):
            writer.add_tensor(tensor, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_tokenizer(writer: Any, vocabulary: Sequence[str], index: Mapping[str, int]) -> None:
    """A SentencePiece vocabulary: text that is no piece of it falls back to bytes."""
    import gguf

    kinds = dict.fromkeys(_CONTROL, gguf.TokenType.CONTROL)
    kinds |= dict.fromkeys(_BYTES, gguf.TokenType.BYTE)
    kinds[_UNKNOWN] = gguf.TokenType.UNKNOWN
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(vocabulary))
    # Longer pieces score higher, so that merging does not stop at a part of one.
    writer.add_token_scores([float(len(token)) for token in vocabulary])
    writer.add_token_types([kinds.get(token, gguf.TokenType.NORMAL) for token in vocabulary])
    writer.add_bos_token_id(index[_BEGIN])
    writer.add_eos_token_id(index[END])
    writer.add_unk_token_id(index[_UNKNOWN])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
