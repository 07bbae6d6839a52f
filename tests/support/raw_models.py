# SPDX-License-Identifier: Apache-2.0
"""Tiny seeded models of every task with raw inputs, as sources with their graphs; tokenizers are trained here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from packager.pipelines.strings import draw_strings
from packager.steps import export, pipeline

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
}
LEVEL = {"opset": 18, "ir": 8, "seed": 0}
BOUNDS = {"atol": 1e-5, "rtol": 1e-4}
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_TEXTS = [text for text in draw_strings(1500, seed=7) if len(text) < 2000]


def word_piece() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(_TEXTS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=_SPECIAL))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.decoder = decoders.WordPiece()
    return made


def byte_level() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made.train_from_iterator(
        _TEXTS,
        trainers.BpeTrainer(
            vocab_size=600, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def unigram() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(
        [text for text in _TEXTS if max(map(ord, text), default=0) < 0x250],  # others are unknown to it
        trainers.UnigramTrainer(vocab_size=700, special_tokens=["<pad>", "<unk>", "</s>"], unk_token="<unk>"),
    )
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]
    )
    made.decoder = decoders.Metaspace()
    return made


WRAPPED: Mapping[str, Callable[[], Any]] = {
    "word-piece": lambda: transformers.PreTrainedTokenizerFast(
        tokenizer_object=word_piece(),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=40,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ),
    "byte-level": lambda: transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level(),
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        mask_token="<mask>",
        model_max_length=32,
    ),
    "unigram": lambda: transformers.PreTrainedTokenizerFast(
        tokenizer_object=unigram(),
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        model_max_length=32,
        padding_side="left",
    ),
}


@dataclass(frozen=True)
class Made:
    """A source, its graph and the facts of the export."""

    source: Path
    graph: Path
    interface: Any

    def step(self, out: Path, spec: Any, strings: int = 600, source: Path | None = None) -> Any:
        """Derive and compare a pipeline into a directory; return what was compared."""
        params = {
            "kind": "transformers",
            "payload": ".",
            "inputs": None,
            "dynamic": {},
            "path": "model/model.onnx",
            "interface": self.interface,
            "pipeline": spec,
            "strings": strings,
            "bounds": BOUNDS,
            **LEVEL,
        }
        out.mkdir(exist_ok=True)
        return pipeline.run({"source": source or self.source, "graph": self.graph}, out, params)


def write_source(source: Path, model: Any, tokenizer: str) -> None:
    torch.manual_seed(0)
    wrapped = WRAPPED[tokenizer]()
    kind, config = model
    kind(config(**SIZES, vocab_size=len(wrapped))).save_pretrained(source)
    wrapped.save_pretrained(source)


def write_classifier(source: Path) -> None:
    """Write a directory with a text classifier of three classes."""
    names = {0: "bad", 1: "fair", 2: "good"}
    config = _config(transformers.BertConfig, id2label=names, label2id={name: index for index, name in names.items()})
    write_source(source, (transformers.BertForSequenceClassification, config), "word-piece")


def exported(folder: Path, inputs: Any = None) -> Made:
    params = {"kind": "transformers", "payload": ".", "inputs": inputs, "dynamic": {}, **LEVEL}
    (folder / "graph").mkdir()
    facts = export.run({"source": folder / "source"}, folder / "graph", params)
    return Made(folder / "source", folder / "graph", facts["interface"])


def made(folder: Path, model: Any, tokenizer: str, modules: Any = ()) -> Made:
    source = folder / "source"
    write_source(source, model, tokenizer)
    if modules:
        paths = ["", *(f"{index}_{name}" for index, name in enumerate(modules, 1))]
        names = ["Transformer", *modules]
        entries = [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
            for index, (path, name) in enumerate(zip(paths, names, strict=True))
        ]
        (source / "modules.json").write_text(json.dumps(entries))
        (source / "1_Pooling").mkdir()
        (source / "1_Pooling" / "config.json").write_text(
            '{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true}'
        )
        (source / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    return exported(folder)


def _config(kind: Any, **more: Any) -> Any:
    return lambda **sizes: kind(**sizes, **more)


def make_classifier(folder: Path) -> Made:
    write_classifier(folder / "source")
    return exported(folder)


def make_tagger(folder: Path) -> Made:
    labels = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}
    config = _config(
        transformers.RobertaConfig,
        id2label=labels,
        label2id={name: index for index, name in labels.items()},
        pad_token_id=1,
    )
    return made(folder, (transformers.RobertaForTokenClassification, config), "byte-level")


def make_encoder(folder: Path) -> Made:
    """A sentence encoder with a tokenizer that pads on the left."""
    config = _config(transformers.BertConfig)
    modules = ("Pooling", "Normalize")
    return made(folder, (transformers.BertModel, config), "unigram", modules)


def make_pictures_model(folder: Path) -> Made:
    """An image classifier of 24x24 pixels."""
    torch.manual_seed(0)
    sizes = {**SIZES, "image_size": 24, "patch_size": 8}
    sizes.pop("max_position_embeddings")
    config = transformers.ViTConfig(
        **sizes, id2label={0: "cat", 1: "dog", 2: "owl"}, label2id={"cat": 0, "dog": 1, "owl": 2}
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder / "source")
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 24, "width": 24},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "source" / "preprocessor_config.json").write_text(json.dumps(processor))
    return exported(folder)


def make_reader(folder: Path) -> Made:
    """A model that answers questions."""
    model = (transformers.BertForQuestionAnswering, transformers.BertConfig)
    return made(folder, model, "word-piece")


BODY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
NAMED = {"id2label": {0: "cat", 1: "dog", 2: "owl"}, "label2id": {"cat": 0, "dog": 1, "owl": 2}}
USUAL = {
    "do_resize": True,
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}


def seen(folder: Path, model: Any, processor: dict[str, Any]) -> Made:
    model.save_pretrained(folder / "source")
    (folder / "source" / "preprocessor_config.json").write_text(json.dumps({**USUAL, **processor}))
    return exported(folder)


def make_detector(folder: Path) -> Made:
    """DETR: pictures of every size, filled up to one size with a mask."""
    torch.manual_seed(0)
    small = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 5}
    small |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    small |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 16)
    backbone = transformers.ResNetConfig(**STAGES, out_features=["stage4"])
    config = transformers.DetrConfig(use_timm_backbone=False, backbone=None, backbone_config=backbone, **small, **NAMED)
    processor = {"image_processor_type": "DetrImageProcessor", "do_pad": True}
    processor |= {"size": {"shortest_edge": 64, "longest_edge": 96}}
    return seen(folder, transformers.DetrForObjectDetection(config), processor)


def make_chooser(folder: Path, *, untrained: bool = False) -> Made:
    """RT-DETR: its encoder chooses the places that are looked at. Untrained, its normalisations leave nothing to see."""
    torch.manual_seed(0)
    backbone = transformers.RTDetrResNetConfig(**STAGES, out_features=["stage2", "stage3", "stage4"])
    small = dict.fromkeys(("encoder_hidden_dim", "d_model", "encoder_ffn_dim", "decoder_ffn_dim"), 16)
    small |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    small |= dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
    channels = {"encoder_in_channels": [8, 8, 16], "decoder_in_channels": [16, 16, 16]}
    config = transformers.RTDetrConfig(backbone_config=backbone, num_queries=5, **small, **channels, **NAMED)
    model = transformers.RTDetrForObjectDetection(config)
    if not untrained:
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.weight.fill_(1)
            model.model.enc_score_head.weight.normal_()
    processor = {"image_processor_type": "RTDetrImageProcessor", "do_normalize": False, "do_pad": False}
    model.save_pretrained(folder / "source")
    (folder / "source" / "preprocessor_config.json").write_text(
        json.dumps({**USUAL, **processor, "size": {"height": 64, "width": 96}})
    )
    return exported(folder, CHOOSER_INPUTS)


CHOOSER_INPUTS = {"pixel_values": {"dtype": "float32", "shape": ["batch", 3, 64, 96]}}


def make_segmenter(folder: Path) -> Made:
    torch.manual_seed(0)
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}
    config = transformers.SegformerConfig(**sizes, num_attention_heads=[1, 1, 2, 2], **NAMED)
    processor = {"image_processor_type": "SegformerImageProcessor", "size": {"height": 64, "width": 64}}
    model = transformers.SegformerForSemanticSegmentation(config)
    with torch.no_grad():
        model.decode_head.classifier.weight.mul_(20)
    return seen(folder, model, processor)


def heard(folder: Path, model: Any, extractor: Any) -> Made:
    model.save_pretrained(folder / "source")
    extractor.save_pretrained(folder / "source")
    return exported(folder)


def make_spectral(folder: Path) -> Made:
    torch.manual_seed(0)
    config = transformers.ASTConfig(**BODY, max_length=128, num_mel_bins=64, **NAMED)
    extractor = transformers.ASTFeatureExtractor(max_length=128, num_mel_bins=64)
    return heard(folder, transformers.ASTForAudioClassification(config), extractor)


def make_pair(folder: Path) -> Made:
    """Two encoders, of pictures and of texts."""
    torch.manual_seed(0)
    tokenizer = WRAPPED["byte-level"]()
    text = {**SIZES, "vocab_size": len(tokenizer), "eos_token_id": 2, "pad_token_id": 1}
    vision = {**BODY, "image_size": 32, "patch_size": 8}
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    tokenizer.save_pretrained(folder / "source")
    processor = {"image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True, "do_center_crop": True}
    processor |= {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return seen(folder, model, processor)


MODELS: Mapping[str, Callable[[Path], Made]] = {
    "classifier": make_classifier,
    "tagger": make_tagger,
    "encoder": make_encoder,
    "pictures_model": make_pictures_model,
    "reader": make_reader,
    "detector": make_detector,
    "segmenter": make_segmenter,
    "spectral": make_spectral,
    "pair": make_pair,
}
