"""A sentence encoder: loading it with sentence-transformers, its prompts, and encoding many texts."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Module, Pooling, StaticEmbedding, Transformer
from torch import Tensor, nn
from torch.func import functional_call

from adiabatic_ray import config, errors, storage
from adiabatic_ray.model import roles, tokens

Side = Literal["query", "passage"]
Weights = Mapping[str, Tensor]
Encode = Callable[[Sequence[str]], Tensor]  # query texts to embeddings [n, d]

# A batch holds up to this many tokens, padding included: many short texts or a few long ones.
TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 32_768}


# Texts of which each side's embeddings are compared with sentence-transformers' own when an encoder is loaded.
PROBES = ["who planted the tree?", "Wer pflanzte den Baum? " * 40, "Кто посадил дерево?", ""]
AGREEMENT = 1e-4  # float32 on two batches of different shapes is within 1e-6
AGREEMENT_OF_16_BITS = 0.05  # bfloat16 has three digits, which are rounded in each layer


class HubUnreachable(errors.ModelError):
    """The model's hub id cannot be looked up, since the hub cannot be reached."""


class Encoder:
    """A loaded encoder with its prompts and maximum lengths. Its own weights never change.

    `sides` are what embeds queries and what embeds passages: one module, unless the model is a `Router` that has one
    for each, or the frozen one has another `dtype`. `module` is that of queries. Embeddings have unit length where the
    model ranks by cosines, which are dot products then, and their own where its `similarity` is another.

    `parameters` holds the weights that the embedding of a query depends on, by transformers' names
    (`encoder.layer.0.output.dense.weight`), and `roles` their names by role. `embed` runs on them or on replacements.

    Raises:
        ModelError: the model has fewer dimensions than it is to be cut to, has a prompt `passage` that
            sentence-transformers does not use, or is a `Router` that does not say which part embeds queries.
    """

    def __init__(self, module: SentenceTransformer, settings: config.Model) -> None:
        module.eval().requires_grad_(False)
        self.sides: dict[Side, SentenceTransformer] = {
            "query": _of_side(module, settings.name, "query"),
            "passage": _of_side(module, settings.name, "document"),
        }
        for side, one in self.sides.items():
            if not isinstance(one[0], Transformer | StaticEmbedding):
                raise errors.ModelError(
                    f"{settings.name} embeds a {side} with `{type(one[0]).__name__}`, which is not supported; only "
                    "encoders that begin with a `Transformer` or a `StaticEmbedding` are."
                )
        if settings.dtype is not None:
            self.sides["passage"] = copy.deepcopy(self.sides["passage"]).to(getattr(torch, settings.dtype))
        self.module = self.sides["query"]
        self.settings = settings
        self.similarity: config.Similarity = module.similarity_fn_name
        own = module.prompts
        prompts = settings.prompts
        self.prompts: dict[Side, str] = {
            "query": own.get("query") or "" if prompts.query is None else prompts.query,
            "passage": own.get("document") or "" if prompts.passage is None else prompts.passage,
        }
        if prompts.passage is None and own.get("passage") and not own.get("document"):
            raise errors.ModelError(
                f"{settings.name} has the prompt {own['passage']!r} for `passage` and none for `document`, so that "
                "sentence-transformers' `encode_document` uses none. Say which your documents were embedded with: "
                f"`model.prompts.passage: {own['passage']!r}`, or `''` for none."
            )
        lengths = {"query": settings.max_length.query, "passage": settings.max_length.passage}
        longest = {side: tokens.max_length(one) for side, one in self.sides.items()}
        self.max_length: dict[Side, int] = {side: min(lengths[side] or most, most) for side, most in longest.items()}
        self.unpooled: dict[Side, int] = {side: self._unpooled(side) for side in self.sides}
        if settings.truncate_dim is not None and settings.truncate_dim > self.dimension:
            raise errors.ModelError(
                f"model.truncate_dim: {settings.name} has {self.dimension} dimensions, and cannot be cut to "
                f"{settings.truncate_dim}."
            )
        self.full_names = self._find_parameters()
        own_parameters = dict(self.module.named_parameters())
        self.parameters: dict[str, Tensor] = {name: own_parameters[full] for name, full in self.full_names.items()}
        self.roles = roles.find(self.module, self.parameters)

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters.values())).device

    @property
    def transformer(self) -> nn.Module:
        """The model of transformers that embeds queries, by whose names `parameters` go, or a `StaticEmbedding`."""
        first = self.module[0]
        model: nn.Module = first if tokens.is_static(self.module) else first.auto_model
        return model

    @property
    def waits(self) -> bool:
        """Whether embedding a query waits for the device, since something depends on what it computed."""
        return bool(self.unpooled["query"]) or tokens.is_static(self.module)

    @property
    def dimension(self) -> int:
        return int(self.module.get_embedding_dimension())

    def _find_parameters(self) -> dict[str, str]:
        """The full names of the parameters that an embedding depends on, by transformers' names.

        A parameter that changes no embedding, such as BERT's unused pooler, is not among them.
        """
        named = dict(self.module.named_parameters())
        with torch.enable_grad():
            leaves = {full: p.detach().requires_grad_() for full, p in named.items()}
            features = self.collate(self.tokenize(["a"], "query"))
            inputs = tokens.inputs(self.module, features)
            embedding = functional_call(self.module, leaves, (inputs,))["sentence_embedding"]
            gradients = torch.autograd.grad(embedding.sum(), list(leaves.values()), allow_unused=True)
        used = [full for full, gradient in zip(leaves, gradients, strict=True) if gradient is not None]
        return {_short(full): full for full in used}

    def _unpooled(self, side: Side) -> int:
        """How many first tokens are left out of the pooling: those of the prompt, with `include_prompt: false`."""
        pooling, tokenizer = _pooling(self.sides[side]), self.sides[side].tokenizer
        if not self.prompts[side] or pooling is None or pooling.include_prompt:
            return 0
        ids: list[int] = tokenizer([self.prompts[side]])["input_ids"][0]
        return len(ids) - (ids[-1] in tokenizer.all_special_ids)

    def tokenize(self, texts: Sequence[str], side: Side) -> list[list[int]]:
        """Token ids of each text with the side's prompt before it, truncated to the side's maximum length."""
        return tokens.ids(self.sides[side], [self.prompts[side] + text for text in texts], self.max_length[side])

    def collate(self, ids: Sequence[Sequence[int]], multiple: int = 1, side: Side = "query") -> tokens.Features:
        """Token ids of a batch, padded on the right, and their mask: two tensors `[b, t]` on the encoder's device.

        `t` is the length of the longest row, rounded up to a multiple of `multiple` where the encoder allows so many.
        """
        longest = max(len(row) for row in ids)
        width = max(longest, min(-(-longest // multiple) * multiple, *self.max_length.values()))
        padding = tokens.padding(self.sides[side])
        padded = torch.tensor([[*row, *[padding] * (width - len(row))] for row in ids], dtype=torch.long)
        lengths = torch.tensor([len(row) for row in ids])
        mask = (torch.arange(width) < lengths[:, None]).long()
        device = next(self.sides[side].parameters()).device
        return {"input_ids": padded.to(device), "attention_mask": mask.to(device)}

    def embed(self, features: tokens.Features, weights: Weights | None = None, side: Side = "query") -> Tensor:
        """Embeddings `[b, d]` in float32, with `weights` in place of the parameters of these names."""
        inputs = tokens.inputs(self.sides[side], features)
        if self.unpooled[side]:
            inputs["prompt_length"] = self.unpooled[side]
        if weights is None:
            output = self.sides[side](inputs)
        else:
            replaced = {self.full_names[name]: weight for name, weight in weights.items()}
            output = functional_call(self.sides[side], replaced, (inputs,))
        embedding = output["sentence_embedding"].float()[..., : self.settings.truncate_dim]
        return nn.functional.normalize(embedding, dim=-1) if self.similarity == "cosine" else embedding

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], side: Side, weights: Weights | None = None) -> Tensor:
        """Embeddings `[n, d]` of texts on the CPU, in float32, in the order given.

        Texts of similar length share a batch, so that little is spent on padding.
        """
        ids = self.tokenize(texts, side)
        embeddings = torch.empty(len(texts), self.dimension)
        budget = TOKENS_PER_BATCH.get(self.device.type, TOKENS_PER_BATCH["cuda"])
        for rows in _batches([len(row) for row in ids], budget):
            features = self.collate([ids[i] for i in rows], side=side)
            embeddings[rows] = self.embed(features, weights, side).cpu()
        return embeddings

    def fingerprint(self, side: Side) -> str:
        """A digest of everything that an embedding on this side depends on, except the text."""
        digest, module = hashlib.sha256(), self.sides[side]
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
        rest: dict[str, Any] = {
            "modules": [_settings(part) for part in module],
            "tokenizer": tokens.settings(module),
            "prompt": self.prompts[side],
            "max_length": self.max_length[side],
        }
        if self.similarity != "cosine":
            rest["similarity"] = self.similarity
        if self.settings.truncate_dim is not None:
            rest["truncate_dim"] = self.settings.truncate_dim
        digest.update(json.dumps(rest, sort_keys=True, default=str).encode())
        return digest.hexdigest()


def default_device() -> torch.device:
    """This machine's accelerator, else its CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def load(settings: config.Model, device: str | torch.device | None = None, *, compare: bool = True) -> Encoder:
    """Load an encoder in float32 from a hub id or a folder.

    With `compare` a few of its embeddings are compared with sentence-transformers' own. That takes about as long as it
    takes to load a small encoder, so the processes of a sweep leave it to the one that starts them.

    Raises:
        ModelError: there is no such model, it has no safetensors weights or lacks some, or it says nothing about its
            pooling and `model.pooling` is not given.
    """
    name, folder = settings.name, Path(settings.name)
    if storage.is_remote(name):
        folder = storage.fetched(storage.folder(name))
        name = str(folder)
    elif not folder.is_dir() and (folder.is_absolute() or name.startswith(".") or name.count("/") > 1):
        raise errors.ModelError(f"model.name: {name} is not a folder.")
    if folder.is_dir() and not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise errors.ModelError(f"model.name: {name} holds no model: neither `modules.json` nor `config.json`.")
    with quiet():
        if settings.pooling is None and not _says_its_pooling(name, settings.revision):
            raise errors.ModelError(
                f"{name} does not say how it pools (no `modules.json`). Give `model.pooling`: mean, cls, max or "
                "lasttoken."
            )
        try:
            module = SentenceTransformer(
                name,
                revision=settings.revision,
                device=str(device or "cpu"),
                trust_remote_code=settings.trust_remote_code,
                truncate_dim=settings.truncate_dim,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
        except Exception as error:  # the libraries raise errors of any type for models that they cannot load
            raise errors.ModelError(
                f"model.name: cannot load {name}: {errors.summary(error)} {_hint(error)}"
            ) from error
    _merge_adapters(module)
    if settings.pooling is not None:
        _set_pooling(module, settings.pooling)
    if settings.similarity is not None:
        module.similarity_fn_name = settings.similarity
    try:
        encoder = Encoder(module, settings)
        if compare:
            _require_all_weights(encoder)
            _require_agreement(encoder, module)
    except errors.AdiabaticRayError:
        raise
    except Exception as error:  # what its modules do with a text that they do not expect
        raise errors.ModelError(
            f"model.name: {name} loads, but does not embed a text: {errors.summary(error)} Its modules are "
            f"{', '.join(type(part).__name__ for part in module)}."
        ) from error
    return encoder


def _hint(error: Exception) -> str:
    """The way out of an error of the libraries."""
    said = str(error)
    if "custom code" in said or "trust_remote_code" in said or "not part of Sentence Transformers" in said:
        return (
            "(Its code lies in its own repository, and nothing from there is run unless you trust it: "
            "`model.trust_remote_code: true`, and in `model.revision` the commit that you have read.)"
        )
    if "safetensors" in said:
        return (
            "(Weights must be in safetensors. Where you trust the model, `SentenceTransformer(NAME).save(FOLDER)` "
            "writes them so.)"
        )
    return "(A hub id needs the network or a filled hub cache.)"


def _require_all_weights(encoder: Encoder) -> None:
    """Ask transformers which weights the model's file lacks, without loading them again.

    Raises:
        ModelError: the embedding of a query depends on one of them, which was drawn at random.
    """
    model = encoder.transformer
    if not isinstance(model, transformers.PreTrainedModel):
        return
    try:
        with quiet():
            _, told = type(model).from_pretrained(
                model.name_or_path,
                revision=encoder.settings.revision,
                trust_remote_code=encoder.settings.trust_remote_code,
                output_loading_info=True,
                device_map="meta",
            )
    except (OSError, ValueError):
        return  # it lies in a subfolder, as a side of a Router does
    lacking = sorted(set(told["missing_keys"]) & set(encoder.parameters))
    if lacking:
        raise errors.ModelError(
            f"model.name: the weights of {encoder.settings.name} lack {len(lacking)} that an embedding depends on, "
            f"such as `{lacking[0]}`, which are random at every start. Are they those of another architecture?"
        )


def _require_agreement(encoder: Encoder, module: SentenceTransformer) -> None:
    """Compare a few embeddings of each side with sentence-transformers' own, of the same prompts and lengths.

    Raises:
        ModelError: they differ, so that the model does something with a text that this project does not know of.
    """
    sides: list[Side] = ["query", "passage"]
    for side in sides:
        rounded = side == "passage" and encoder.settings.dtype is not None
        cut, longest = encoder.max_length[side], tokens.max_length(encoder.sides[side])
        reference = encoder.sides[side] if cut < longest or rounded else module
        if cut < longest:
            tokens.set_max_length(reference, cut)
        encode = reference.encode_query if side == "query" else reference.encode_document
        expected = encode(
            PROBES,
            prompt=getattr(encoder.settings.prompts, side),
            normalize_embeddings=encoder.similarity == "cosine",
            show_progress_bar=False,
        )
        if cut < longest:
            tokens.set_max_length(reference, longest)
        ours = encoder.encode(PROBES, side)
        difference = float((ours - torch.from_numpy(expected)).abs().max() / ours.norm(dim=1).max())
        if not difference < (AGREEMENT_OF_16_BITS if rounded else AGREEMENT):
            raise errors.ModelError(
                f"{encoder.settings.name}: sentence-transformers embeds a {side} otherwise than this project, by "
                f"{difference:.2g} of its length. The model does something with texts that is not supported yet, such "
                "as a chat template or a length for each side."
            )


def initialise(folder: Path, tokenizer_file: Path, seed: int, **shape: Any) -> None:
    """Write a BERT encoder with random weights, mean pooling and normalisation, in sentence-transformers' layout.

    `shape` goes to `transformers.BertConfig`. The tokenizer file must define `[PAD]`, `[UNK]`, `[CLS]` and `[SEP]`.
    """
    from sentence_transformers.base.modules import Normalize, Transformer

    torch.manual_seed(seed)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=shape["max_position_embeddings"],
    )
    settings = transformers.BertConfig(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, architectures=["BertModel"], **shape
    )
    with quiet():
        transformers.BertModel(settings, add_pooling_layer=False).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformer = Transformer(str(folder))
        transformer.max_seq_length = shape["max_position_embeddings"]
        pooling = Pooling(transformer.get_embedding_dimension(), "mean")
        SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu").save(
            str(folder), create_model_card=False
        )


def _says_its_pooling(name: str, revision: str | None) -> bool:
    if Path(name).is_dir():
        return (Path(name) / "modules.json").is_file()
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        hf_hub_download(name, "modules.json", revision=revision)
    except LocalEntryNotFoundError as error:
        raise HubUnreachable(
            f"model.name: {name} is neither a folder nor in the hub's cache, and the hub cannot be reached."
        ) from error
    except EntryNotFoundError:
        return False
    return True


def _of_side(module: SentenceTransformer, name: str, task: str) -> SentenceTransformer:
    """What a model embeds queries with (`task` is `query`), or passages (`document`): all of it, unless it is a Router.

    Of a Router it is the part of that task, with the modules that follow the Router.
    """
    first, *rest = module
    if not isinstance(first, Router):
        return module
    route = task if task in first.sub_modules else first.default_route
    if route not in first.sub_modules:
        raise errors.ModelError(
            f"{name} is a `Router` with the routes {sorted(first.sub_modules)}, and none of them is `{task}` or the "
            "default. Save it with `Router.for_query_document`."
        )
    return SentenceTransformer(
        modules=[*first.sub_modules[route], *rest],
        device=str(module.device),
        prompts=module.prompts,
        default_prompt_name=module.default_prompt_name,
        similarity_fn_name=module.similarity_fn_name,
        truncate_dim=module.truncate_dim,
    ).eval()


def _pooling(module: SentenceTransformer) -> Pooling | None:
    return next((m for m in module if isinstance(m, Pooling)), None)


def _settings(module: nn.Module) -> list[Any]:
    """What a module of sentence-transformers computes apart from its weights.

    A transformer's own configuration belongs to it, without what says only where it came from.
    """
    own = module.get_config_dict() if isinstance(module, Module) else {}
    model = module.auto_model.config.to_dict() if isinstance(module, Transformer) else {}
    origin = ("_name_or_path", "transformers_version", "architectures", "dtype")
    return [type(module).__name__, own, {key: value for key, value in model.items() if key not in origin}]


def _merge_adapters(module: SentenceTransformer) -> None:
    """Add the adapters that came with a model to its weights, in a model that knows nothing of them."""
    for transformer in [one for one in module.modules() if isinstance(one, Transformer)]:
        model = transformer.model
        if not getattr(model, "_hf_peft_config_loaded", False):
            continue
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, layer in list(model.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                model.set_submodule(name, layer.get_base_layer())
        transformer.model = type(model)(model.config).to(model.device)
        transformer.model.load_state_dict(model.state_dict())
        transformer.model.name_or_path = ""  # there lies the base of the adapter


def _set_pooling(module: SentenceTransformer, mode: str) -> None:
    for i, part in enumerate(module):
        if isinstance(part, Pooling):
            module[i] = Pooling(part.embedding_dimension, mode)
            return
    raise errors.ModelError(f"model.pooling: the model has no pooling module that `{mode}` could replace.")


def _short(full: str) -> str:
    """transformers' name of a `SentenceTransformer`'s parameter: without `0.model.` (or `0.auto_model.`)."""
    for prefix in ("0.model.", "0.auto_model."):
        if full.startswith(prefix):
            return full.removeprefix(prefix)
    return full


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, the longest first, each of at most `budget` tokens when padded."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and the libraries' warnings while a model is loaded or saved."""
    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    levels = {name: logging.getLogger(name).level for name in ("sentence_transformers", "huggingface_hub")}
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
