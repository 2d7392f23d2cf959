"""Backbones: one small adapter per family gives its embedding, its layers and how to call them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from torch import Tensor, nn

from common.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Where a family keeps what the product needs."""

    layers: Callable[[nn.Module], nn.ModuleList]
    takes_token_types: bool


def _encoder_layers(model: nn.Module) -> nn.ModuleList:
    return model.get_submodule("encoder.layer")  # type: ignore[return-value]


def _distilbert_layers(model: nn.Module) -> nn.ModuleList:
    return model.get_submodule("transformer.layer")  # type: ignore[return-value]


FAMILIES = {
    "bert": Parts(layers=_encoder_layers, takes_token_types=True),
    "distilbert": Parts(layers=_distilbert_layers, takes_token_types=False),
    "roberta": Parts(layers=_encoder_layers, takes_token_types=False),
    "xlm-roberta": Parts(layers=_encoder_layers, takes_token_types=False),
}


class Backbone(nn.Module):
    """Embedding and layers of an encoder, callable one by one."""

    def __init__(self, model: nn.Module, config: Any) -> None:
        super().__init__()
        parts = parts_of(config.model_type)
        self.config = config
        self.takes_token_types = parts.takes_token_types and config.type_vocab_size > 1
        self.embeddings: nn.Module = model.embeddings  # type: ignore[assignment]
        self.layers = parts.layers(model)

    @property
    def hidden_size(self) -> int:
        """Width H of the hidden states."""
        return int(self.config.hidden_size)

    @property
    def max_tokens(self) -> int:
        """Longest input the position embeddings allow; RoBERTa's start after the padding index."""
        positions = int(self.config.max_position_embeddings)
        return positions - self.config.pad_token_id - 1 if "roberta" in self.config.model_type else positions

    def embed(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Embedding output [B, S, H] of input_ids [B, S]; padding must hold the tokenizer's padding id."""
        if self.takes_token_types:
            token_type_ids = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            return self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)  # type: ignore[no-any-return]
        return self.embeddings(input_ids=input_ids)  # type: ignore[no-any-return]

    def advance(self, hidden_states: Tensor, attention_mask: Tensor, start: int, end: int) -> Tensor:
        """Run the span [start, end) on hidden_states [B, S, H] under attention_mask [B, S]."""
        visible = self._mask(attention_mask, hidden_states.dtype)  # [B, 1, 1, S]
        for layer in self.layers[start:end]:
            output = layer(hidden_states, attention_mask=visible)
            hidden_states = output if isinstance(output, Tensor) else output[0]  # a tuple before transformers 5
        return hidden_states

    def _mask(self, attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
        """Widen [B, S] to [B, 1, 1, S]; written-out attention adds it to its scores, the fused one wants booleans."""
        visible = attention_mask[:, None, None, :].to(torch.bool)
        if self.config._attn_implementation == "sdpa":  # noqa: SLF001 - transformers has no other name for it
            return visible
        return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)


def parts_of(model_type: str) -> Parts:
    """Adapter of a model type as its config.json names it."""
    if model_type not in FAMILIES:
        raise ConfigError(f"backbone: model type {model_type!r} is not supported; supported are {sorted(FAMILIES)}")
    return FAMILIES[model_type]


def load_backbone(source: str) -> Backbone:
    """Load weights from a directory or by hub name."""
    config = _config(source)
    parts_of(config.model_type)
    try:
        model = transformers.AutoModel.from_pretrained(source, config=config, attn_implementation="sdpa").float()
    except (OSError, ValueError) as exc:
        raise ConfigError(f"backbone: the weights of {source!r} cannot be loaded: {exc}") from exc
    return Backbone(model, config)


def build_backbone(config_file: Path, attention: str = "sdpa") -> Backbone:
    """Make an untrained backbone of a config.json, for weights that will be loaded into it.

    Args:
        config_file: The backbone's config.json.
        attention: "sdpa", or "eager", which exports to a plainer graph.
    """
    config = _config(str(config_file.parent))
    model = transformers.AutoModel.from_config(config, attn_implementation=attention)  # type: ignore[no-untyped-call]
    return Backbone(model, config)


def load_tokenizer(source: str) -> Tokenizer:
    """Load a fast tokenizer, without the padding and cutting its file may prescribe."""
    file = Path(source) / "tokenizer.json"
    if file.is_file():
        tokenizer = Tokenizer.from_file(str(file))
    else:
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(source).backend_tokenizer
        except (OSError, ValueError, AttributeError) as exc:
            raise ConfigError(f"backbone: {source!r} has no fast tokenizer (tokenizer.json): {exc}") from exc
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _config(source: str) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"backbone: {source!r} is neither a directory with config.json and weights nor a reachable hub name: {exc}"
        ) from exc
